// Call half_plus_two of a model server with the usual gRPC client of Node.js.
//
// Usage: node predict.cjs DESCRIPTORS < SETTINGS. DESCRIPTORS is a FileDescriptorSet with TensorFlow Serving's services.
// SETTINGS is JSON: address, calls (their number, all at once), options (of the channel), and for TLS: ca, name, and
// with two-way TLS cert and key, in PEM. With `idleMs`, the channel is idle for this time between a first call and the
// others. The program prints JSON: how often each outcome occurred (an answer, or the name of an error's code), and
// how often the open channel lost its connection. The node modules are in the folder that NODE_PATH names.
"use strict";

const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const settings = JSON.parse(fs.readFileSync(0, "utf8"));
const descriptors = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(process.argv[2]), { enums: String });
const { PredictionService } = grpc.loadPackageDefinition(descriptors).tensorflow.serving;
const pem = (text) => (text ? Buffer.from(text) : null);
const credentials = settings.ca
  ? grpc.credentials.createSsl(pem(settings.ca), pem(settings.key), pem(settings.cert))
  : grpc.credentials.createInsecure();
const options = { ...settings.options, ...(settings.name && { "grpc.ssl_target_name_override": settings.name }) };
const client = new PredictionService(settings.address, credentials, options);

let lost = 0;
let closed = false;
function watch() {
  const channel = client.getChannel();
  const state = channel.getConnectivityState(false);
  channel.watchConnectivityState(state, Infinity, () => {
    if (closed) return;
    if (state === grpc.connectivityState.READY) lost += 1;
    watch();
  });
}

// In a FileDescriptorSet, the loader reads a map as the list of its entries.
function predict(value) {
  const x = { dtype: "DT_FLOAT", tensor_shape: { dim: [{ size: 1 }] }, float_val: [value] };
  return new Promise((resolve) => {
    client.Predict({ model_spec: { name: "m" }, inputs: [{ key: "x", value: x }] }, { deadline: Date.now() + 120000 }, (error, answer) => {
      if (error) console.error(error.details);
      const right = !error && answer.outputs[0].value.float_val[0] === value / 2 + 2;
      resolve(error ? grpc.status[error.code] : right ? "answer" : "wrong");
    });
  });
}

async function main() {
  watch();
  const outcomes = {};
  const count = (outcome) => (outcomes[outcome] = (outcomes[outcome] || 0) + 1);
  if (settings.idleMs) {
    count(await predict(0));
    await new Promise((resolve) => setTimeout(resolve, settings.idleMs));
  }
  (await Promise.all(Array.from({ length: settings.calls }, (_, number) => predict(number)))).forEach(count);
  console.log(JSON.stringify({ outcomes, lost }));
  closed = true;
  client.close();
}

main();
