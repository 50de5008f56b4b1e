// Draws the figures of a plan's page, in the colours of the reader's scheme.
(() => {
  const figures = @FIGURES@;
  const config = @CONFIG@;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function draw() {
    const ink = dark.matches ? "#e6e6e6" : "#1a1a1a";
    const grid = dark.matches ? "#4a4a4a" : "#d8d8d8";
    const free = dark.matches ? "#333333" : "#E5E5E5"; // of the map: what nobody uses stays quiet
    for (const [name, figure] of figures) {
      const layout = figure.layout;
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      layout.font = { ...layout.font, color: ink };
      for (const axis of ["xaxis", "yaxis"]) {
        layout[axis] = { ...layout[axis], gridcolor: grid, zerolinecolor: grid };
      }
      const data = JSON.parse(JSON.stringify(figure.data).replaceAll("#E5E5E5", free));
      Plotly.react(name, data, layout, config);
    }
  }
  draw();
  dark.addEventListener("change", draw);
})();
