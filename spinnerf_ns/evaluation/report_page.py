"""The report's page: markup, style and script, with {{title}} and {{body}} left to fill in."""

PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta http-equiv=Content-Security-Policy
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{title}}</title>
<style>
:root {
  color-scheme: light dark;
  --ground: #f7f6f3; --card: #ffffff; --ink: #1c1d20; --soft: #63666d; --line: #e2e0da; --accent: #0b6e6e; --tint: #e3f1f0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #131417; --card: #1c1e22; --ink: #eceae6; --soft: #a0a4ad; --line: #30333a; --accent: #5cc8c1; --tint: #1d3636;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 84rem; padding: 2.5rem 1.25rem 5rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.15; letter-spacing: -.015em; margin: 0 0 1.5rem; }
h2 { font-size: 1.2rem; margin: 0 0 .9rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; font-weight: 600; overflow-wrap: anywhere; }
section { margin-top: 2.75rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: .75rem; margin: 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .75rem .95rem; }
.tile dt { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
.tile dd {
  margin: .1rem 0 0; font-size: 1.45rem; font-weight: 650; font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
.tile dd.words { font-size: 1.05rem; line-height: 1.35; margin-top: .35rem; }
.compare, article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
article + article { margin-top: 1rem; }
.controls { display: flex; flex-wrap: wrap; gap: .6rem 1.25rem; margin-bottom: .9rem; font-size: .9rem; color: var(--soft); }
select {
  font: inherit; color: var(--ink); background: var(--ground); border: 1px solid var(--line); border-radius: .4rem;
  padding: .25rem .5rem; max-width: 16rem; margin-left: .25rem;
}
.frame {
  --split: 50%; position: relative; overflow: hidden; border-radius: .4rem; background: #000; margin: 0 auto;
  touch-action: pan-y; line-height: 0;
}
.frame img { width: 100%; display: block; }
.frame #over { position: absolute; inset: 0; height: 100%; clip-path: inset(0 calc(100% - var(--split)) 0 0); }
.frame input {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; appearance: none;
}
.frame input::-webkit-slider-thumb { appearance: none; width: 2px; height: 100%; }
.frame input::-moz-range-thumb { width: 2px; height: 100%; border: 0; }
.bar {
  position: absolute; top: 0; bottom: 0; left: var(--split); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 0 1px rgb(0 0 0 / .35); pointer-events: none;
}
.bar::after {
  content: "\\2194"; position: absolute; top: 50%; left: 50%; transform: translate(-50%, -50%);
  width: 2.5rem; height: 2.5rem; border-radius: 50%; background: #fff; color: #1c1d20;
  font-size: 1.25rem; line-height: 2.5rem; text-align: center;
  box-shadow: 0 1px 6px rgb(0 0 0 / .45);
}
.frame:focus-within { outline: 3px solid var(--accent); outline-offset: 3px; }
.tag {
  position: absolute; bottom: .75rem; padding: .15rem .55rem; border-radius: 1rem; background: rgb(0 0 0 / .62); color: #fff;
  font-size: .8rem; line-height: 1.5; pointer-events: none;
}
.tag-left { left: .75rem; } .tag-right { right: .75rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .75rem; }
figure { margin: 0; max-width: 32rem; }
figure img { width: 100%; height: auto; display: block; border-radius: .4rem; background: #000; }
figcaption { font-size: .82rem; color: var(--soft); margin-top: .3rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
.scroll table { width: 100%; }
th, td { padding: .45rem .85rem; text-align: right; white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
.scroll th:first-child { position: sticky; left: 0; background: var(--card); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
td.best { font-weight: 700; background: var(--tint); }
.missing { color: var(--soft); }
.timings { width: 100%; max-width: 44rem; background: var(--card); border-radius: .6rem; outline: 1px solid var(--line); }
.timings .bars { width: 55%; }
.bars span { display: block; height: .6rem; border-radius: .3rem; background: var(--accent); }
.timings .total > * { font-weight: 700; }
@media print { .compare { display: none; } article { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{title}}</h1>
{{body}}
<script>
"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const compare = get("compare");
  if (!compare) return;
  const frame = get("frame"), split = get("split");
  const picture = (view, label) =>
    [...document.querySelectorAll("img[data-view]")].find((p) => p.dataset.view === view && p.dataset.label === label);
  const show = () => {
    const view = get("view").value;
    for (const [select, image, tag] of [["left", "over", "tag-left"], ["right", "under", "tag-right"]]) {
      // A view may lack a label that others have: its choice is then not offered.
      for (const option of get(select).options) option.disabled = !picture(view, option.value);
      let chosen = picture(view, get(select).value);
      if (!chosen) {
        const there = [...get(select).options].filter((option) => !option.disabled).map((option) => option.value);
        const words = get(select).dataset.prefer.split(" ");
        const liked = words.flatMap((word) => there.filter((label) => label.toLowerCase().startsWith(word)));
        get(select).value = liked[0] ?? there[select === "left" ? 0 : there.length - 1];
        chosen = picture(view, get(select).value);
      }
      get(image).src = chosen.src;
      get(image).alt = chosen.alt;
      get(tag).textContent = get(select).value;
      if (image === "under") {
        const ratio = chosen.getAttribute("width") / chosen.getAttribute("height");
        frame.style.aspectRatio = ratio;
        frame.style.maxWidth = "min(100%, 60rem, calc(78vh * " + ratio + "))";
      }
    }
  };
  const move = () => {
    frame.style.setProperty("--split", split.value + "%");
    split.setAttribute("aria-valuetext",
      Math.round(split.value) + " % " + get("left").value + ", then " + get("right").value);
  };
  for (const id of ["view", "left", "right"]) get(id).addEventListener("change", () => { show(); move(); });
  split.addEventListener("input", move);
  compare.hidden = false;
  show();
  move();
})();
</script>
</body>
</html>
"""
