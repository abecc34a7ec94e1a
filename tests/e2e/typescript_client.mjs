// Drives a client of the TypeScript SDK, version 1 or 2, through one cell of the client matrix.
//
// stdin: {sdk, generation, era, url, authorization, name, steps: {call, progress, cancel, elicit}}, each step
// {tool, arguments} or absent. stdout: one JSON object with what happened.
import { createRequire } from "node:module";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const job = JSON.parse(Buffer.concat(chunks));
const require = createRequire(`${job.sdk}/package.json`);
const first = job.generation === 1;
const { Client } = require(first ? "@modelcontextprotocol/sdk/client/index.js" : "@modelcontextprotocol/client");
const { StreamableHTTPClientTransport } = require(
  first ? "@modelcontextprotocol/sdk/client/streamableHttp.js" : "@modelcontextprotocol/client",
);

const negotiation = job.era === "legacy" ? "legacy" : { pin: job.era };
const client = new Client(
  { name: job.name, version: "1" },
  {
    capabilities: { elicitation: { form: {} } },
    ...(first ? {} : { versionNegotiation: { mode: negotiation } }),
  },
);
const answer = async () => ({ action: "accept", content: job.answer });
if (first) {
  const { ElicitRequestSchema } = require("@modelcontextprotocol/sdk/types.js");
  client.setRequestHandler(ElicitRequestSchema, answer);
} else {
  client.setRequestHandler("elicitation/create", answer);
}

function call({ tool, arguments: given }, options) {
  const params = { name: tool, arguments: given };
  return first ? client.callTool(params, undefined, options) : client.callTool(params, options);
}

const text = (result) => result.content.map((part) => part.text ?? "").join("\n");
const headers = { Authorization: job.authorization };
await client.connect(new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers } }));
const done = { list: (await client.listTools()).tools.map((tool) => tool.name) };
const { steps } = job;
if (steps.call) done.call = text(await call(steps.call));
if (steps.progress) {
  done.progress = 0;
  await call(steps.progress, { onprogress: () => (done.progress += 1) });
}
if (steps.cancel) {
  const cancelling = new AbortController();
  const options = { signal: cancelling.signal, onprogress: () => cancelling.abort("enough") };
  done.cancel = await call(steps.cancel, options).then(() => false, () => true);
  await call(steps.call); // the connection goes on
}
if (steps.elicit) done.elicit = text(await call(steps.elicit));
await client.close();
console.log(JSON.stringify(done));
