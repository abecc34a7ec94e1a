// Finds which packages of a Node.js server a warm worker may load; runs in a sandbox, as nobody.
//
// `discover SCRIPT ARGS...` runs the server itself and notes which file loads which. `verify ROOT
// MODULES...` loads modules (`import FILE`, `require FILE`), or links them (`link FILE`), as a worker
// would, one after the other, and notes what that did. A module is unfit when loading it reads the environment as a whole or changes
// it, reads the arguments or the working directory, looks into the home, writes a file, starts a
// process, a thread or a timer, calls a network, speaks, loads native code, or leaves something open:
// that could be another thing once the user is known. Names of single variables that were read are
// told. No barrier against malice, which is the business of the sandbox.
"use strict";

const fs = require("node:fs");
const Module = require("node:module");
const os = require("node:os");
const path = require("node:path");
const { fileURLToPath, pathToFileURL } = require("node:url");
const { link } = require("./worker.cjs");

const RESULT = path.join(os.homedir(), "audit.json");
const [what, ...words] = process.argv.slice(2);

function discover(argv) {
  const note = (line) => fs.appendFileSync(RESULT, JSON.stringify(line) + "\n");
  const resolve = Module._resolveFilename;
  Module._resolveFilename = function (request, parent, ...rest) {
    const found = resolve.call(this, request, parent, ...rest);
    if (parent?.filename && path.isAbsolute(found)) note(["require", parent.filename, found]);
    return found;
  };
  Module.register(pathToFileURL(path.join(__dirname, "resolving.mjs")), { data: RESULT });
  process.argv.splice(1, Infinity, ...argv);
  setImmediate(() => Module.runMain());
}

class Watch {
  constructor(root) {
    this.root = root;
    this.current = "";
    this.unfit = {};
    this.read = new Set();
  }

  charge(why) {
    if (this.current) this.unfit[this.current] ??= why;
  }

  reads(name) {
    if (this.current && typeof name === "string") this.read.add(name);
  }

  // Charge every call of these functions, or those that `why` finds a reason for.
  calls(object, names, why) {
    for (const name of names) {
      const original = object?.[name];
      if (typeof original !== "function") continue;
      const watch = this;
      const replaced = function (...args) {
        const found = typeof why === "function" ? why(...args) : why;
        if (found) watch.charge(found);
        return new.target
          ? Reflect.construct(original, args, new.target === replaced ? original : new.target)
          : Reflect.apply(original, this, args);
      };
      Object.setPrototypeOf(replaced, original);
      replaced.prototype = original.prototype;
      Object.defineProperty(object, name, { value: replaced, configurable: true, writable: true });
    }
  }

  looks(file) {
    const text = file instanceof URL ? fileURLToPath(file) : String(file);
    const full = path.resolve("/", text);
    if (full === this.root || full.startsWith(this.root + "/")) return "";
    const personal = ["/home", "/tmp", "/var/tmp", "/dev/shm"];
    return personal.some((place) => full === place || full.startsWith(place + "/"))
      ? "looks into the home"
      : "";
  }
}

function environment(watch) {
  const real = process.env;
  const seen = new Proxy(real, {
    get: (_, name) => (watch.reads(name), real[name]),
    has: (_, name) => (watch.reads(name), name in real),
    getOwnPropertyDescriptor: (_, name) => (
      watch.reads(name), Reflect.getOwnPropertyDescriptor(real, name)
    ),
    ownKeys: () => (watch.charge("reads the whole environment"), Reflect.ownKeys(real)),
    set: (_, name, value) => (watch.charge("changes the environment"), (real[name] = value), true),
    deleteProperty: (_, name) => (watch.charge("changes the environment"), delete real[name]),
  });
  Object.defineProperty(process, "env", { value: seen, configurable: true, writable: true });
}

function watched(root) {
  const watch = new Watch(root);
  environment(watch);
  const words = (target, name) => (watch.charge("reads the arguments"), Reflect.get(target, name));
  process.argv = new Proxy(process.argv, { get: words });
  watch.calls(process, ["cwd"], "asks for the working directory");
  watch.calls(process, ["chdir", "setuid", "setgid", "exit", "abort", "kill"], "changes the process");
  watch.calls(process, ["umask"], (mask) => (mask === undefined ? "" : "changes the process"));
  watch.calls(process, ["dlopen"], "loads native code");
  watch.calls(os, ["homedir"], () => watch.reads("HOME"));
  watch.calls(os, ["tmpdir"], () => ["TMPDIR", "TMP", "TEMP"].forEach((name) => watch.reads(name)));
  const writes = (_, flags) => (/[wa+]/.test(String(flags ?? "r")) || flags > 0 ? "writes a file" : "");
  for (const [files, suffix] of [[fs, ""], [fs, "Sync"], [fs.promises, ""]]) {
    const names = (list) => list.map((name) => name + suffix);
    watch.calls(files, names(["open"]), (file, flags) => writes(file, flags) || watch.looks(file));
    watch.calls(
      files,
      names("readFile readdir opendir stat lstat access exists realpath readlink statfs watch".split(" ")),
      (file) => watch.looks(file),
    );
    watch.calls(
      files,
      names(
        "writeFile appendFile mkdir mkdtemp rename rm rmdir unlink copyFile cp link symlink truncate chmod chown utimes".split(" "),
      ),
      "writes a file",
    );
  }
  watch.calls(fs, ["createReadStream", "watchFile"], (file) => watch.looks(file));
  watch.calls(fs, ["createWriteStream"], "writes a file");
  watch.calls(
    require("node:child_process"),
    ["spawn", "spawnSync", "exec", "execSync", "execFile", "execFileSync", "fork"],
    "starts a process",
  );
  watch.calls(require("node:worker_threads"), ["Worker"], "starts a thread");
  const network = "calls a network";
  const net = require("node:net");
  watch.calls(net, ["connect", "createConnection"], network);
  watch.calls(net.Socket.prototype, ["connect"], network);
  watch.calls(net.Server.prototype, ["listen"], network);
  watch.calls(require("node:dgram"), ["createSocket"], network);
  for (const dns of [require("node:dns"), require("node:dns").promises]) {
    watch.calls(dns, Object.keys(dns).filter((name) => /^(lookup|resolve|reverse)/.test(name)), network);
  }
  for (const name of ["http", "https"]) watch.calls(require(`node:${name}`), ["request", "get"], network);
  watch.calls(globalThis, ["fetch", "WebSocket", "EventSource"], network);
  watch.calls(globalThis, ["setTimeout", "setInterval", "setImmediate"], "starts a timer");
  watch.calls(require("node:timers"), ["setTimeout", "setInterval", "setImmediate"], "starts a timer");
  for (const name of ["stdout", "stderr"]) watch.calls(process[name], ["write"], "speaks");
  return watch;
}

// Link a file as a worker does; returns why it must not.
async function linked(file) {
  if (fs.readFileSync(file, "utf8").includes("import.meta.main")) {
    return "asks whether it is the main module"; // answered when it is linked
  }
  const ran = () => Object.values(require.cache).filter((module) => module.loaded).length;
  const before = ran();
  await link([file]);
  return ran() > before ? "runs when it is linked" : "";
}

async function verify(root, modules) {
  await import("node:process"); // reads every property once, which is nobody's doing
  const { setImmediate: soon } = globalThis;
  const settled = async () => {
    for (let turn = 0; turn < 3; turn++) await new Promise((done) => soon(done));
    return process.getActiveResourcesInfo().sort();
  };
  const watch = watched(root);
  Module.syncBuiltinESMExports();
  for (const module of modules) {
    const [how, file] = [module.slice(0, module.indexOf(" ")), module.slice(module.indexOf(" ") + 1)];
    const before = await settled();
    watch.current = module;
    try {
      if (how === "link") {
        const why = await linked(file);
        if (why) watch.charge(why);
      } else if (how === "import") await import(pathToFileURL(file));
      else Module.createRequire(file)(file);
    } catch (error) {
      watch.charge(`fails: ${error?.name ?? "error"}`);
    }
    if ((await settled()).length > before.length) watch.charge("leaves something open");
    watch.current = "";
  }
  const told = { modules, unfit: watch.unfit, read: [...watch.read].sort() };
  fs.writeFileSync(RESULT, JSON.stringify(told));
  process.reallyExit(0);
}

if (what === "discover") discover(words);
else verify(words[0], words.slice(1));
