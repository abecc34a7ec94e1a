// A warm worker: loads a server's packages, waits for its one user, then becomes the server.
//
// The server's own ES modules it links only: they are read, compiled and bound to each other, and not
// one line of them runs before the user is known.
//
// It hears two messages on its stdin, each with its length before it: what to load, and who it is. The
// second is the first thing of a user that it sees, and it never hears a third: what follows is MCP.
// Reading blocks on purpose. Nothing runs while it waits, and not one byte after a message is taken.
"use strict";

const fs = require("node:fs");
const Module = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const v8 = require("node:v8");
const vm = require("node:vm");

const READY = "ready\n";
const CLOSED = "data:text/javascript,throw 0"; // a module that no evaluation gets past

function fill(buffer) {
  for (let at = 0; at < buffer.length; ) {
    let count;
    try {
      count = fs.readSync(0, buffer, at, buffer.length - at, null);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      process.stdin._handle.setBlocking(true); // a package has opened the stream
      blocked = true;
      continue;
    }
    if (!count) process.exit(0); // nobody needs it any more
    at += count;
  }
  return buffer;
}

let blocked = false;

function hear() {
  const text = fill(Buffer.alloc(fill(Buffer.alloc(4)).readUInt32BE())).toString();
  if (blocked) process.stdin._handle.setBlocking(false);
  blocked = false;
  return JSON.parse(text);
}

// Link ES modules and all that they import. Evaluation goes in the order of the imports, so it ends at
// the first one; what was linked stays in the loader's cache, for whoever imports it then.
async function link(files) {
  const urls = [CLOSED, ...files.map((file) => pathToFileURL(file).href)];
  const text = urls.map((url) => `import ${JSON.stringify(url)};`).join("");
  await import(`data:text/javascript,${encodeURIComponent(text)}`).catch((reason) => {
    if (reason !== 0) throw reason;
  });
}

// What loading has left behind would stay in memory until the server has made as much again.
function collect() {
  v8.setFlagsFromString("--expose-gc");
  vm.runInNewContext("gc")();
  v8.setFlagsFromString("--no-expose-gc");
}

// As `confinement.laying`: files in memory, and links to them in the home.
function lay(files, links) {
  for (const [file, text] of Object.entries(files)) {
    const link = links[file];
    fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
    fs.writeFileSync(file, text, { mode: 0o600, flag: "wx" });
    fs.mkdirSync(path.dirname(link), { recursive: true, mode: 0o700 });
    const made = `${link}.${Math.random().toString(36).slice(2)}`;
    fs.symlinkSync(file, made);
    try {
      fs.renameSync(made, link);
    } catch (error) {
      fs.unlinkSync(made);
      throw error;
    }
  }
}

function become(what) {
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, what.env);
  if (what.made) fs.mkdirSync(what.cwd, { recursive: true });
  lay(what.files, what.links);
  process.chdir(what.cwd);
  process.execArgv.length = 0;
  process.argv.splice(1, Infinity, ...what.argv);
  Module.runMain();
}

async function main() {
  const modules = hear().modules;
  for (const [how, file] of modules) {
    if (how === "import") await import(pathToFileURL(file));
    else if (how === "require") Module.createRequire(file)(file);
  }
  await link(modules.filter(([how]) => how === "link").map(([, file]) => file));
  collect();
  fs.writeSync(1, READY);
  const what = hear();
  setImmediate(become, what); // not in a promise: the server's errors are its own
}

if (require.main === module) main();
module.exports = { link };
