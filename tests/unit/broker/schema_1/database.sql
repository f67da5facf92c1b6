BEGIN TRANSACTION;
CREATE TABLE audit (
	seq INTEGER NOT NULL, 
	time VARCHAR(32) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	decision VARCHAR(16) NOT NULL, 
	code VARCHAR(64) NOT NULL, 
	detail TEXT NOT NULL, 
	release_id VARCHAR(64), 
	platform VARCHAR(16), 
	mr_enclave VARCHAR(64), 
	mr_signer VARCHAR(64), 
	platform_id VARCHAR(64), 
	tcb_status VARCHAR(64), 
	advisories TEXT, 
	quote_digest VARCHAR(64), 
	previous_hash VARCHAR(64) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "audit" VALUES(1,'2026-11-23T12:00:00.000000+00:00','owner','allowed','ok','replica-0','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','simulated','0101010101010101010101010101010101010101010101010101010101010101','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL,NULL,NULL,NULL,'0000000000000000000000000000000000000000000000000000000000000000','4ed73b7bc3db68ee11db24744dee7b9597738ffa598aca32d4ae55cd30113d64');
INSERT INTO "audit" VALUES(2,'2026-11-23T12:00:00.000000+00:00','owner','allowed','ok','replica-1','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','simulated','0202020202020202020202020202020202020202020202020202020202020202','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL,NULL,NULL,NULL,'4ed73b7bc3db68ee11db24744dee7b9597738ffa598aca32d4ae55cd30113d64','5360c6f1e2467f5845744aa72541995f608fb34dfb1a84867eda6cdefc2c2f5f');
INSERT INTO "audit" VALUES(3,'2026-11-23T12:00:00.000000+00:00','owner','allowed','ok','replica-0','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','sgx','0303030303030303030303030303030303030303030303030303030303030303','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',NULL,NULL,NULL,NULL,'5360c6f1e2467f5845744aa72541995f608fb34dfb1a84867eda6cdefc2c2f5f','657aae8349cad09ac46030bc28ba8c691c1969d1825b010bb08ade1d343084b6');
INSERT INTO "audit" VALUES(4,'2026-11-23T12:00:00.000000+00:00','owner','draining','ok','until 2026-11-23T13:00:00+00:00','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','sgx',NULL,NULL,NULL,NULL,NULL,NULL,'657aae8349cad09ac46030bc28ba8c691c1969d1825b010bb08ade1d343084b6','5989eb846da7a2c19e0a52d7a1d5e36e17b478b1768065b38e07b08bdb6ee304');
INSERT INTO "audit" VALUES(5,'2026-11-23T12:00:00.000000+00:00','owner','enrolled','ok','rack 1',NULL,'sgx',NULL,NULL,'abababababababababababababababab',NULL,NULL,NULL,'5989eb846da7a2c19e0a52d7a1d5e36e17b478b1768065b38e07b08bdb6ee304','dd28c0161d9c31d170f397b485a15fad14945610f2e46be497e8c974581d92e1');
INSERT INTO "audit" VALUES(6,'2026-11-23T12:00:00.000000+00:00','192.0.2.1:4','released','ok','','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','simulated','0101010101010101010101010101010101010101010101010101010101010101','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','UpToDate','','f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0','dd28c0161d9c31d170f397b485a15fad14945610f2e46be497e8c974581d92e1','5cb866ec0768ab56fe924e4ad4e220be38c53c08976261a61ec2ae749be6ea5f');
CREATE TABLE audit_heads (
	seq INTEGER NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	time VARCHAR(32) NOT NULL, 
	signature VARCHAR(128) NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "audit_heads" VALUES(6,'5cb866ec0768ab56fe924e4ad4e220be38c53c08976261a61ec2ae749be6ea5f','2026-11-23T12:00:00.000000+00:00','2b3aae4cea69d4d0640e8b1b7aac5c68e363f367434271b2129f55da12ca1edb260dfa4f593207d380839de2cd65f1b30ad77e43fb46a5aebe97f70af8d9620c');
CREATE TABLE evaluation_floor (
	anchor VARCHAR(64) NOT NULL, 
	platform VARCHAR(16) NOT NULL, 
	number INTEGER NOT NULL, 
	seen VARCHAR(32) NOT NULL, 
	PRIMARY KEY (anchor)
);
INSERT INTO "evaluation_floor" VALUES('44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3','sgx',17,'2026-11-23T12:00:00.000000+00:00');
CREATE TABLE keys (
	key_id VARCHAR(32) NOT NULL, 
	wrapped BLOB NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (key_id)
);
INSERT INTO "keys" VALUES('11111111111111111111111111111111',X'77726170706564','2026-11-23T12:00:00.000000+00:00');
INSERT INTO "keys" VALUES('22222222222222222222222222222222',X'77726170706564','2026-11-23T12:00:00.000000+00:00');
CREATE TABLE platforms (
	platform VARCHAR(16) NOT NULL, 
	platform_id VARCHAR(64) NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	enrolled VARCHAR(32) NOT NULL, 
	PRIMARY KEY (platform, platform_id)
);
INSERT INTO "platforms" VALUES('sgx','abababababababababababababababab','rack 1','2026-11-23T12:00:00.000000+00:00');
CREATE TABLE reference_values (
	mr_enclave VARCHAR(64) NOT NULL, 
	release_id VARCHAR(64) NOT NULL, 
	label VARCHAR(64) NOT NULL, 
	mr_signer VARCHAR(64) NOT NULL, 
	isv_prod_id INTEGER NOT NULL, 
	isv_svn INTEGER NOT NULL, 
	attribute_flags VARCHAR(16) NOT NULL, 
	attribute_flags_mask VARCHAR(16) NOT NULL, 
	xfrm VARCHAR(16) NOT NULL, 
	xfrm_mask VARCHAR(16) NOT NULL, 
	PRIMARY KEY (mr_enclave), 
	FOREIGN KEY(release_id) REFERENCES releases (release_id)
);
INSERT INTO "reference_values" VALUES('0101010101010101010101010101010101010101010101010101010101010101','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','replica-0','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',1,1,'8000000000000005','ffffffffffffffff','0000000000000003','fffffffffff9ff1b');
INSERT INTO "reference_values" VALUES('0202020202020202020202020202020202020202020202020202020202020202','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','replica-1','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',1,2,'8000000000000005','ffffffffffffffff','0000000000000003','fffffffffff9ff1b');
INSERT INTO "reference_values" VALUES('0303030303030303030303030303030303030303030303030303030303030303','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','replica-0','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',1,3,'8000000000000005','ffffffffffffffff','0000000000000003','fffffffffff9ff1b');
CREATE TABLE releases (
	release_id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	platform VARCHAR(16) NOT NULL, 
	key_id VARCHAR(32) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	deadline VARCHAR(32), 
	tcb_policy TEXT NOT NULL, 
	enrolled_platforms_only BOOLEAN NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (release_id), 
	FOREIGN KEY(key_id) REFERENCES keys (key_id)
);
INSERT INTO "releases" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','resnet50','simulated','11111111111111111111111111111111','active',NULL,'{"advisories":[],"name":"strict","statuses":["UpToDate"]}',0,'2026-11-23T12:00:00.000000+00:00');
INSERT INTO "releases" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','bert','sgx','22222222222222222222222222222222','draining','2026-11-23T13:00:00.000000+00:00','{"advisories":["INTEL-SA-00289","INTEL-SA-00615"],"name":"cloud-smt","statuses":["ConfigurationAndSWHardeningNeeded","SWHardeningNeeded","UpToDate"]}',1,'2026-11-23T12:00:00.000000+00:00');
CREATE TABLE schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema" VALUES(1);
CREATE INDEX ix_audit_code ON audit (code);
CREATE INDEX ix_reference_values_release_id ON reference_values (release_id);
COMMIT;
