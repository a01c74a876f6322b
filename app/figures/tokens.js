// A click on a token of a coloured text types its place into the field beside the text, which is the way by
// keyboard. No "<" stands before a letter here: what cleans the page would take the script for markup.
window.slicescopeTokens ??= (() => {
  const type = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
  document.addEventListener("click", (event) => {
    const token = event.target?.closest?.(".slicescope-tokens [data-place]");
    const field = document.querySelector(".st-key-token-place input");
    if (!token || !field) return;
    field.focus({preventScroll: true});
    type.call(field, token.dataset.place);
    field.dispatchEvent(new Event("input", {bubbles: true}));
    field.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
    field.blur();
  });
  return true;
})();
