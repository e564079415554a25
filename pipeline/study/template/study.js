const study = JSON.parse(document.getElementById("study").textContent);
const element = (id) => document.getElementById(id);
const answers = new Map();
let tasks = [];
let at = 0;
let code = "";
let annotator = "";
let begun = 0;

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function asCsv() {
  const rows = tasks
    .filter((task) => answers.has(task.task))
    .map((task) => ({ study: study.study, code, annotator, task: task.task, ...answers.get(task.task) }));
  const lines = rows.map((row) => study.columns.map((column) => quoted(row[column])).join(","));
  return [study.columns.join(","), ...lines, ""].join("\r\n");
}
function show() {
  const task = tasks[at];
  const done = !task;
  element("tasks").hidden = done;
  element("end").hidden = !done;
  element("unfinished").hidden = answers.size === tasks.length;
  element("saving").hidden = answers.size === 0;
  element("save").href = `data:text/csv;charset=utf-8,${encodeURIComponent(asCsv())}`;
  element("save").download = `answers-${code}.csv`;
  if (done) return;
  element("progress").textContent = `${at + 1} of ${tasks.length}`;
  element("original").src = study.pictures[task.original];
  element("edit").textContent = task.edit ? `; edited: ${task.edit}` : "";
  for (const side of ["left", "right"]) element(side).firstElementChild.src = study.pictures[task[side]];
  element("back").disabled = at === 0;
  begun = performance.now();
}
function choose(side) {
  const task = tasks[at];
  if (!task) return;
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  answers.set(task.task, { answer: side, seconds });
  at += 1;
  show();
}
element("start").addEventListener("submit", (event) => {
  event.preventDefault();
  code = element("code").value.trim().toLowerCase();
  annotator = element("annotator").value.trim();
  if (!Object.hasOwn(study.forms, code)) {
    element("problem").textContent = `This page has no code ${code}. Its codes are ${Object.keys(study.forms).join(", ")}.`;
    return;
  }
  if (!annotator) {
    element("problem").textContent = "Give your name or number.";
    return;
  }
  tasks = study.forms[code];
  element("start").hidden = true;
  show();
});
element("left").addEventListener("click", () => choose("left"));
element("right").addEventListener("click", () => choose("right"));
element("back").addEventListener("click", () => {
  at = Math.max(0, at - 1);
  show();
});
document.addEventListener("keydown", (event) => {
  if (element("tasks").hidden || event.repeat) return;
  if (event.key === "ArrowLeft") choose("left");
  if (event.key === "ArrowRight") choose("right");
});
window.addEventListener("beforeunload", (event) => {
  if (answers.size > 0 && answers.size < tasks.length) event.preventDefault();
});
