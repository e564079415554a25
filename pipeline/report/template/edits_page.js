const pictures = JSON.parse(document.getElementById("edits").textContent);
const form = document.getElementById("controls");
const direction = document.getElementById("direction");
const slider = document.getElementById("magnitude");
const output = document.getElementById("shown");
const figures = [...document.querySelectorAll("[data-method]")];
const sources = [...document.querySelectorAll("[data-source]")];
let wanted = 0;

function inWords(magnitude) {
  return magnitude === 0 ? "0" : (magnitude > 0 ? "+" : "\u2212") + Math.abs(magnitude);
}
function nearest(series) {
  const away = series.map((edit) => Math.abs(edit.magnitude - wanted));
  return away.indexOf(Math.min(...away));
}
function show() {
  const picture = pictures[Number(form.elements.picture.value)];
  const series = picture.series[direction.value] ?? [];
  const index = nearest(series);
  const edit = series[index];
  slider.max = Math.max(series.length - 1, 0);
  slider.value = index;
  const shown = edit ? inWords(edit.magnitude) : "\u2013";
  output.textContent = shown;
  slider.setAttribute("aria-valuetext", `${direction.value} ${shown}`);
  document.querySelector("main").classList.toggle("small", picture.small);
  for (const figure of figures) {
    const image = figure.querySelector("img");
    const uri = edit?.[figure.dataset.method];
    figure.hidden = !uri;
    if (uri) image.src = uri;
    image.alt = `${picture.key}, ${direction.value} ${shown}, ${figure.querySelector("figcaption").textContent}`;
  }
  for (const figure of sources) {
    const image = figure.querySelector("img");
    image.src = picture[figure.dataset.source];
    image.alt = `${figure.querySelector("figcaption").textContent} of ${picture.key}`;
  }
}
function move(index) {
  const picture = pictures[Number(form.elements.picture.value)];
  const series = picture.series[direction.value] ?? [];
  const edit = series[Math.min(Math.max(index, 0), series.length - 1)];
  if (edit) wanted = edit.magnitude;
  show();
}
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => (event.target === slider ? move(Number(slider.value)) : show()));
for (const figure of figures) {
  const image = figure.querySelector("img");
  let from = null;
  image.draggable = false;
  image.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, index: Number(slider.value) };
    image.setPointerCapture(event.pointerId);
  });
  image.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const steps = ((event.clientX - from.x) / image.clientWidth) * Number(slider.max);
    move(from.index + Math.round(steps));
  });
  for (const end of ["pointerup", "pointercancel"]) image.addEventListener(end, () => (from = null));
}
show();
