// Keeps what it is given beside its own code, as servers for one person do; with EARLY it tries while it starts.
const fs = require("fs"), path = require("path"), readline = require("readline");
const keep = (text) => {
  fs.mkdirSync(path.join(__dirname, "data"), { recursive: true });
  fs.appendFileSync(path.join(__dirname, "data", "notes.txt"), text + "\n");
  return fs.readFileSync(path.join(__dirname, "data", "notes.txt"), "utf8");
};
if (process.env.EARLY) keep("started");
const tool = { name: "keep", inputSchema: { type: "object", properties: { text: { type: "string" } } } };
const results = {
  initialize: () => ({
    protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: { name: "beside", version: "1" },
  }),
  "tools/list": () => ({ tools: [tool] }),
  "tools/call": ({ arguments: { text } }) => {
    try {
      return { content: [{ type: "text", text: keep(text) }] };
    } catch (error) {
      return { content: [{ type: "text", text: String(error) }], isError: true };
    }
  },
};
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) return;
  const known = results[method];
  const told = known ? { result: known(params) } : { error: { code: -32601, message: "no" } };
  process.stdout.write(JSON.stringify({ jsonrpc: "2.0", id, ...told }) + "\n");
});
