// Verify the quote of an evidence bundle with @phala/dcap-qvl, a verifier in pure JavaScript.
//
// Usage: node verify_quote.cjs BUNDLE ROOT_DER_BASE64 SECONDS. It prints JSON: the TCB status, and the report's fields in hex.
// The node modules are in the folder that NODE_PATH names.
"use strict";

const fs = require("fs");
const { QuoteVerifier } = require("@phala/dcap-qvl");

const [file, root, seconds] = process.argv.slice(2);
const bundle = JSON.parse(fs.readFileSync(file, "utf8"));
const quote = Buffer.from(bundle.evidence.quote, "base64url");
try {
  const verifier = QuoteVerifier.newWithRootCa(Buffer.from(root, "base64"));
  const found = verifier.verify(quote, bundle.evidence.collateral, Number(seconds));
  const report = found.report.data;
  const hex = (value) => Buffer.from(value).toString("hex");
  console.log(JSON.stringify({
    status: found.status,
    advisories: found.advisory_ids,
    mrEnclave: hex(report.mrEnclave),
    mrSigner: hex(report.mrSigner),
    reportData: hex(report.reportData),
  }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
