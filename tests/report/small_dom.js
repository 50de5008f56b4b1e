// Runs the script of a counterexample's page on as much of a DOM as it uses, moves its slider
// through every step, and prints what is shown at each.
"use strict";
const fs = require("fs");
const page = fs.readFileSync(process.argv[2], "utf-8");
const data = page.match(/type="application\/json">([^]*?)<\/script>/)[1];
const script = page.match(/<script>([^]*?)<\/script>/)[1];
class Element {
  constructor() {
    this.children = []; this.heard = {}; this.attributes = {}; this.textContent = ""; this.value = "0";
    const names = new Set();
    this.classList = {
      add: (name) => names.add(name), contains: (name) => names.has(name),
      toggle: (name, on) => (on ? names.add(name) : names.delete(name)),
    };
  }
  append(...made) { this.children.push(...made); }
  addEventListener(what, heard) { this.heard[what] = heard; }
  setAttribute(name, value) { this.attributes[name] = value; }
  scrollIntoView() {}
}
const found = {};
const document = {
  querySelector: (name) => (found[name] = found[name] || new Element()),
  getElementById: (id) => (id === "data" ? { textContent: data } : document.querySelector("#" + id)),
  createElement: () => new Element(),
};
document.documentElement = { style: { setProperty() {} } };
const around = { hash: "" };
new Function("document", "history", "location", "addEventListener", script)(
  document, { replaceState: (_, __, hash) => { around.hash = hash; } }, around, () => {});
const slider = found["#slider"], shown = [];
document.querySelector("#module").checked = true;
for (let done = 0; done <= slider.max; done++) {
  slider.value = String(done);
  slider.heard.input();
  shown.push({
    values: found["#words tbody"].children.map((row) => row.children[1].textContent),
    now: found["#steps tbody"].children.findIndex((row) => row.classList.contains("now")),
    text: found["#what"].textContent,
  });
}
console.log(JSON.stringify(shown));
