// A click on a token of a coloured text types its place into the field beside the text, which is the way by
// keyboard. No "<" stands before a letter here: what cleans the page would take the script for markup.
window.slicescopeTokens ??= (() => {
  const type = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
  const choose = (place, tries) => {
    const field = document.querySelector(".st-key-token-place input");
    if (!field) {  // the page is being drawn: its text is there, and its field not yet
      if (tries) setTimeout(choose, 100, place, tries - 1);
      return;
    }
    field.focus({preventScroll: true});
    type.call(field, place);
    field.dispatchEvent(new Event("input", {bubbles: true}));
    field.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
    field.blur();
  };
  document.addEventListener("click", (event) => {
    const token = event.target?.closest?.(".slicescope-tokens [data-place]");
    if (token) choose(token.dataset.place, 100);
  });
  return true;
})();
