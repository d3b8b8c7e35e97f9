"use strict";
const figures = {{ figures_json }};
function theme() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  const axis = {color: colour("--soft"), gridcolor: colour("--grid"), linecolor: colour("--line")};
  const changes = {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": colour("--text"), "font.size": 13, "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": colour("--soft"), "modebar.activecolor": colour("--text"), "modebar.orientation": "v", "font.family": getComputedStyle(document.body).fontFamily};
  for (const name of ["xaxis", "yaxis"]) for (const key in axis) changes[name + "." + key] = axis[key];
  return changes;
}
// plotly.js offers to send charts to its makers' server unless told not to.
const options = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"]};
const drawn = Object.entries(figures).filter(([, figure]) => figure).map(([id, figure]) =>
  Plotly.newPlot(id, figure.data, figure.layout, options).then(() => Plotly.relayout(id, theme())).then(() => id));
Promise.all(drawn).then((ids) => {
  const every = (changes) => ids.forEach((id) => Plotly.relayout(id, {...theme(), ...changes(id)}));
  const screen = () => every((id) => ({autosize: true, width: null, height: figures[id].layout.height ?? null}));
  // Sizes are still those of the screen when a browser announces that it will print; this fits A4 and letter, across.
  const paper = () => every((id) => ({autosize: false, width: 900, height: figures[id].layout.height ?? 400}));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", screen);
  addEventListener("beforeprint", paper);
  addEventListener("afterprint", screen);
  document.documentElement.dataset.ready = "yes";
});
