// Notes which module imports which: hooks of `audit.cjs`, in the thread that Node.js gives them.
import { appendFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

let result;

export function initialize(data) {
  result = data;
}

export async function resolve(specifier, context, next) {
  const found = await next(specifier, context);
  if (context.parentURL?.startsWith("file:") && found.url.startsWith("file:")) {
    const edge = ["import", fileURLToPath(context.parentURL), fileURLToPath(found.url)];
    appendFileSync(result, JSON.stringify(edge) + "\n");
  }
  return found;
}
