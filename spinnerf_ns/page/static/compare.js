// Before and after, with a slider, and what part of it is invented.
export function showCompare(panel, state, current, choose, again) {
  const places = state.photos.map((_, place) => place).filter((place) => state.removal.photos.includes(state.photos[place].name));
  if (!places.length) return;
  let at = Math.max(0, places.indexOf(current)), cut = 0.5;
  panel.hidden = false;
  panel.innerHTML = "<div class=bar><button>‹</button><button>›</button><b></b><span></span><span class=grow></span><button class=again>Remove again</button><button>Close</button></div><canvas id=compare></canvas>";
  const [bar, canvas] = panel.children, [back, on, name, note, , repeat, close] = bar.children;
  const invented = state.removal.invented;
  note.textContent = invented == null ? "drag the line" : `${(100 * invented).toFixed(1)} % of what was removed is seen in no photo and invented; drag the line`;
  repeat.hidden = !again;
  repeat.onclick = () => { panel.hidden = true; again(); };
  close.onclick = () => (panel.hidden = true);
  back.onclick = () => choose(places[(at + places.length - 1) % places.length]);
  on.onclick = () => choose(places[(at + 1) % places.length]);
  panel.go = (place) => { if (places.includes(place)) load(places.indexOf(place)); else panel.hidden = true; };
  let before = new Image(), after = new Image();

  function load(place) {
    at = place;
    name.textContent = state.photos[places[at]].name;
    before = Object.assign(new Image(), { onload: draw, src: `photo/${places[at]}/large` });
    after = Object.assign(new Image(), { onload: draw, src: `after/${places[at]}` });
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d"), photo = state.photos[places[at]];
    context.scale(ratio, ratio);
    const scale = Math.min(width / photo.width, height / photo.height), w = photo.width * scale, h = photo.height * scale;
    const x = (width - w) / 2, y = (height - h) / 2;
    if (after.complete && after.naturalWidth) context.drawImage(after, x, y, w, h);
    context.save();
    context.beginPath();
    context.rect(x, y, w * cut, h);
    context.clip();
    if (before.complete && before.naturalWidth) context.drawImage(before, x, y, w, h);
    context.restore();
    context.fillStyle = "#fff";
    context.fillRect(x + w * cut - 1, y, 2, h);
    context.font = "13px system-ui";
    context.fillText("before", x + 8, y + h - 10);
    context.fillText("after", x + w - 40, y + h - 10);
    canvas.cutAt = (screen) => { cut = Math.max(0, Math.min(1, (screen - x) / w)); draw(); };
  }

  canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); canvas.held = true; canvas.cutAt(event.offsetX); };
  canvas.onpointermove = (event) => { if (canvas.held) canvas.cutAt(event.offsetX); };
  canvas.onpointerup = canvas.onpointercancel = () => (canvas.held = false);
  new ResizeObserver(draw).observe(canvas);
  load(at);
}
