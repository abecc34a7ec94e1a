// Notes which module imports which: hooks of `audit.cjs`, in the thread that Node.js gives them.
import { appendFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

let result;

export function initialize(data) {
  result = data;
}

export async function resolve(specifier, context, next) {
  const found = await next(specifier, context);
  const parent = context.parentURL ?? "file:///"; // the server's first file has none
  if (parent.startsWith("file:") && found.url.startsWith("file:")) {
    const edge = ["import", fileURLToPath(parent), fileURLToPath(found.url)];
    appendFileSync(result, JSON.stringify(edge) + "\n");
  }
  return found;
}
