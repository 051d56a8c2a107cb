// The page's script: sends the chosen pictures as they are, and shows what comes back. Names of files and people are
// set as text, never as HTML; names of files are not sent.
"use strict";

const byId = (id) => document.getElementById(id);
const limits = document.querySelector("main").dataset;
let pictures = [];
let running = null;

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A, B, ..., Z, A1, B1, ...
const letter = (number) => String.fromCharCode(65 + (number % 26)) + (number < 26 ? "" : Math.floor(number / 26));
const kind = (same) => (same === null ? "" : same ? "same" : "other");
const shown = (similarity) => similarity.toFixed(3);

function say(text, isProblem = false) {
  byId("status").textContent = text;
  byId("status").className = isProblem ? "problem" : "";
}

function add(files) {
  const usable = [...files].filter((file) => file.size);
  const fitting = usable.slice(0, Number(limits.pictures) - pictures.length);
  pictures = pictures.concat(fitting);
  const notes = [usable.length < files.length ? "Empty files were left out." : "",
                 fitting.length < usable.length ? `Only the first ${limits.pictures} pictures are taken.` : ""];
  update(notes.join(" ").trim());
}

// Show the pictures as they are now, then what the program finds in them; an older answer that is under way is dropped.
async function update(note = "") {
  if (running) running.abort();
  const own = running = new AbortController();
  byId("clear").hidden = !pictures.length;
  show(null);
  say(note);
  if (!pictures.length) return;
  const size = pictures.reduce((sum, file) => sum + file.size, 0);
  if (size > Number(limits.bytes)) {
    const [found, most] = [size, Number(limits.bytes)].map((bytes) => (bytes / 2 ** 20).toFixed(1));
    return say(`These pictures have ${found} MB; at most ${most} are taken. Remove some.`, true);
  }
  say(`${note} Looking at ${pictures.length} picture${pictures.length > 1 ? "s" : ""}…`);
  try {
    const answer = await send(pictures, own.signal);
    if (running !== own) return;
    show(answer);
    const isAlone = answer.faces.length === 1 && !answer.matches;
    say(note || (isAlone ? "Add another picture to compare it with." : ""));
  } catch (error) {
    if (running === own) say(error.message, true);
  }
}

async function send(files, signal) {
  let response;
  try {
    response = await fetch("/compare", {
      method: "POST", signal, body: new Blob(files),
      headers: {"Content-Type": "application/octet-stream", "Picture-Sizes": files.map((file) => file.size).join(",")},
    });
  } catch (error) {
    throw new Error("The program does not answer. Is it still running?");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(`Refused: ${answer.error}.`);
  return answer;
}

function show(answer) {
  byId("faces").replaceChildren(...(answer ? cards(answer) : pictures.map((_, number) => card(number, null, ""))));
  showVerdict(answer);
  showMatrix(answer);
}

function cards(answer) {
  const found = answer.faces.map((face, number) => ({
    picture: face.picture,
    element: card(face.picture, make("img", {src: face.crop, alt: `face ${letter(number)}`}), `Face ${letter(number)}`,
                  matches(answer, number)),
  }));
  const failed = answer.problems.map(({picture, message}) => ({
    picture, element: card(picture, null, "", [make("p", {class: "other"}, message)]),
  }));
  return [...found, ...failed].sort((one, other) => one.picture - other.picture).map(({element}) => element);
}

function card(picture, image, title, more = []) {
  const name = pictures[picture].name;
  const button = make("button", {type: "button", "aria-label": `Remove ${name}`}, "Remove");
  button.addEventListener("click", () => {
    pictures.splice(picture, 1);
    update();
    byId("choose").focus();
  });
  return make("li", {}, image || make("span", {class: "none", "aria-hidden": "true"}, "?"),
              make("div", {}, make("p", {}, make("b", {}, title), title ? " " : "", name), ...more, button));
}

function matches(answer, number) {
  if (!answer.matches) return [];
  const near = answer.matches[number];
  const list = make("ol", {}, ...near.map((match) => make(
    "li", {class: match.accepted ? "same" : ""}, make("span", {}, match.name),
    make("span", {class: "value"}, shown(match.similarity)))));
  const best = near[0].accepted === null ? "Nearest in the gallery" : near[0].accepted ? near[0].name : "Unknown";
  return [make("p", {}, make("strong", {class: kind(near[0].accepted)}, best)), list];
}

function showVerdict(answer) {
  const box = byId("verdict");
  box.hidden = !answer || answer.faces.length !== 2;
  if (box.hidden) return;
  const same = answer.same && answer.same[0][1];
  box.className = kind(same);
  box.replaceChildren(make("strong", {}, same === null ? "" : same ? "Same person" : "Different people"),
                      `similarity ${shown(answer.similarities[0][1])}`);
}

function showMatrix(answer) {
  byId("matrix").hidden = !answer || answer.faces.length < 3;
  if (byId("matrix").hidden) return;
  const head = (number, scope) => make("th", {scope}, make("img", {src: answer.faces[number].crop, alt: ""}),
                                       letter(number));
  const every = answer.faces.map((_, number) => number);
  const rows = every.map((row) => make("tr", {}, head(row, "row"), ...every.map((column) => cell(answer, row, column))));
  byId("matrix").querySelector("table").replaceChildren(
    make("thead", {}, make("tr", {}, make("td", {}), ...every.map((number) => head(number, "col")))),
    make("tbody", {}, ...rows));
}

function cell(answer, row, column) {
  if (row === column) return make("td", {}, "–");
  const same = answer.same && answer.same[row][column];
  const words = same === null ? [] : [make("br", {}), make("small", {}, same ? "same" : "different")];
  return make("td", {class: kind(same)}, make("span", {class: "value"}, shown(answer.similarities[row][column])), ...words);
}

byId("choose").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
byId("clear").addEventListener("click", () => {
  pictures = [];
  update();
  byId("choose").focus();
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
  });
}
document.addEventListener("drop", (event) => add(event.dataTransfer.files));
