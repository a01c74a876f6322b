// The button that prints the slides, or saves them as PDF: the browser's own print does both.
(() => {
  for (const button of document.querySelectorAll(".slicescope-print:not([data-begun])")) {
    button.dataset.begun = "1";
    button.addEventListener("click", () => window.print());
  }
})();
