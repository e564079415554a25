const dialog = document.querySelector("dialog");
const buttons = [...document.querySelectorAll("button.zoom")];
let shown = 0;
function show(index) {
  if (!buttons[index]) return;
  shown = index;
  const image = buttons[index].querySelector("img").cloneNode();
  const caption = document.createElement("p");
  caption.textContent = image.alt;
  dialog.replaceChildren(image, caption);
  if (!dialog.open) dialog.showModal();
}
buttons.forEach((button, index) => button.addEventListener("click", () => show(index)));
dialog?.addEventListener("click", () => dialog.close());
dialog?.addEventListener("close", () => buttons[shown].focus());
dialog?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});
