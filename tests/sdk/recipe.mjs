// Says of each line of stdin, `{"params": …}`, what the check of the page answers, on the vectors.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

const [module, file] = process.argv.slice(2);
const { userContext } = await import(module);
const { trust, method, now } = JSON.parse(readFileSync(file, "utf8"));
const keys = createServer((_, res) => res.end(JSON.stringify(trust.jwks)));
await new Promise((done) => keys.listen(0, "127.0.0.1", done));
const keysUrl = `http://127.0.0.1:${keys.address().port}/`;
const userOf = userContext({ ...trust, keysUrl, now: () => now });
for await (const line of createInterface({ input: process.stdin })) {
  const { params, header } = JSON.parse(line);
  try {
    console.log(JSON.stringify(await userOf(method, params, header)));
  } catch (error) {
    console.log(JSON.stringify(error.message));
  }
}
keys.close();
