// The large photo: zoom, pan, clicks, boxes and strokes. Places are in the photo's own pixels, (0, 0) the outer corner of the first.
const DRAG = 6; // screen pixels that a finger or mouse may wander and still click

export class View {
  constructor(canvas, listeners) {
    Object.assign(this, { canvas, listeners, radius: 12, scale: 1, x: 0, y: 0, films: [], prompts: [], hidden: false });
    this.fingers = new Map();
    this.images = new Map();
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
    }, { passive: false });
    document.addEventListener("keydown", (event) => { if (event.code === "Space") { this.spaced = true; if (event.target === document.body || event.target === canvas) event.preventDefault(); } });
    document.addEventListener("keyup", (event) => { if (event.code === "Space") this.spaced = false; });
  }

  // ---------------------------------------------------------------------------------------------------------- showing
  show({ address, width, height, films, prompts }) {
    const other = address !== this.address;
    Object.assign(this, { address, width, height, prompts });
    this.canvas.dataset.wanted = films.join(" ");
    if (other) { this.pending = null; this.fit(); }
    const wanted = [address, ...films];
    for (const name of [...this.images.keys()]) if (!wanted.includes(name) && this.images.size > 24) this.images.delete(name);
    const films_ready = () => films.every((name) => this.images.get(name)?.complete && this.images.get(name).naturalWidth);
    const settle = () => {
      if (this.address !== address) return;
      if (films_ready()) { this.films = films; this.pending = null; this.canvas.dataset.shown = films.join(" "); }
      this.draw();
    };
    if (other) this.films = [];
    for (const name of wanted) {
      if (this.images.has(name)) continue;
      const image = new Image();
      image.onload = settle;
      image.src = name;
      this.images.set(name, image);
    }
    settle();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1, { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (this.width && this.fitted) this.fit();
    else if (this.width && this.middle) { // what was in the middle stays there
      this.x = clientWidth / 2 - this.middle[0] * this.scale;
      this.y = clientHeight / 2 - this.middle[1] * this.scale;
      this.draw();
    } else this.draw();
  }

  // Remembers what is in the middle, in the photo's pixels.
  moved(fitted = false) {
    const { clientWidth, clientHeight } = this.canvas;
    this.fitted = fitted;
    this.middle = [(clientWidth / 2 - this.x) / this.scale, (clientHeight / 2 - this.y) / this.scale];
    this.draw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    this.scale = Math.min(clientWidth / this.width, clientHeight / this.height) * 0.98;
    this.x = (clientWidth - this.width * this.scale) / 2;
    this.y = (clientHeight - this.height * this.scale) / 2;
    this.moved(true);
  }

  zoom(by, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const least = Math.min(this.canvas.clientWidth / this.width, this.canvas.clientHeight / this.height) * 0.5;
    const scale = Math.max(least, Math.min(40, this.scale * by));
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.moved();
  }

  draw() { // once per frame, however often it is asked for
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.paint(); });
  }

  paint() {
    const context = this.canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    if (!this.width) return;
    context.imageSmoothingEnabled = this.scale < 3;
    const photo = this.images.get(this.address);
    const lay = (image) => { if (image?.complete && image.naturalWidth) context.drawImage(image, this.x, this.y, this.width * this.scale, this.height * this.scale); };
    lay(photo);
    if (!this.hidden) for (const film of this.films) lay(this.images.get(film));
    for (const { prompt, active } of this.prompts) this.paintPrompt(context, prompt, active);
    if (this.pending) this.paintPrompt(context, this.pending, true);
    const tool = this.listeners.tool();
    if (this.drag?.box) this.paintBox(context, this.drag.box);
    if (this.drag?.stroke) this.paintStroke(context, this.drag.stroke, this.radius / this.scale, tool === "erase");
    if (this.hover && ["brush", "erase"].includes(tool)) {
      context.strokeStyle = tool === "erase" ? "#ff8080" : "#9fe0a8";
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(...this.hover, this.radius, 0, 7);
      context.stroke();
    }
  }

  paintPrompt(context, prompt, active) {
    context.globalAlpha = active ? 1 : 0.4;
    if (prompt.box) this.paintBox(context, prompt.box);
    (prompt.points || []).forEach(([x, y], index) => {
      const on = (prompt.labels || [])[index] !== 0;
      context.beginPath();
      context.arc(this.x + x * this.scale, this.y + y * this.scale, 6, 0, 7);
      context.fillStyle = on ? "#28a745" : "#d62828";
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = "#fff";
      context.stroke();
    });
    context.globalAlpha = 1;
  }

  paintBox(context, [x0, y0, x1, y1]) {
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.setLineDash([6, 4]);
    context.strokeRect(this.x + x0 * this.scale, this.y + y0 * this.scale, (x1 - x0) * this.scale, (y1 - y0) * this.scale);
    context.setLineDash([]);
  }

  paintStroke(context, points, radius, erases) {
    context.strokeStyle = erases ? "#ff505080" : "#50ff7880";
    context.lineWidth = 2 * radius * this.scale;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    for (const [x, y] of points) context.lineTo(this.x + x * this.scale, this.y + y * this.scale);
    if (points.length === 1) context.lineTo(this.x + points[0][0] * this.scale + 0.01, this.y + points[0][1] * this.scale);
    context.stroke();
  }

  // --------------------------------------------------------------------------------------------------------- pointing
  // The brush has its size on the screen: zoom in for fine work.
  place(event) { return [(event.offsetX - this.x) / this.scale, (event.offsetY - this.y) / this.scale]; }
  inside([x, y]) { return x >= 0 && y >= 0 && x < this.width && y < this.height; }

  down(event) {
    if (!this.width) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (this.fingers.size === 2) { this.drag = { pinch: true }; this.draw(); return; } // a second finger: neither click nor box
    if (this.fingers.size > 2) return;
    const tool = this.listeners.tool();
    const start = this.place(event), screen = [event.offsetX, event.offsetY];
    if (event.button === 1 || this.spaced || tool === "pan") this.drag = { pan: true, screen };
    else if (["brush", "erase"].includes(tool) && event.button === 0) this.drag = { stroke: [start], erase: tool === "erase" };
    else this.drag = { start, screen, label: event.button === 2 || event.altKey || event.ctrlKey ? 0 : tool === "off" ? 0 : 1 };
    this.draw();
  }

  move(event) {
    this.hover = [event.offsetX, event.offsetY];
    const before = this.fingers.get(event.pointerId), drag = this.drag;
    if (!before) { this.draw(); return; }
    const now = [event.offsetX, event.offsetY];
    if (drag?.pinch && this.fingers.size === 2) {
      const [a, b] = [...this.fingers.values()];
      const apart = Math.hypot(a[0] - b[0], a[1] - b[1]), middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      this.fingers.set(event.pointerId, now);
      const [c, d] = [...this.fingers.values()];
      const centre = [(c[0] + d[0]) / 2, (c[1] + d[1]) / 2];
      this.x += centre[0] - middle[0];
      this.y += centre[1] - middle[1];
      this.zoom(Math.hypot(c[0] - d[0], c[1] - d[1]) / Math.max(1, apart), ...centre);
      return;
    }
    this.fingers.set(event.pointerId, now);
    if (!drag || drag.pinch) return;
    if (drag.pan) { this.x += now[0] - before[0]; this.y += now[1] - before[1]; this.moved(); }
    else if (drag.stroke) {
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const place = [(each.offsetX - this.x) / this.scale, (each.offsetY - this.y) / this.scale], last = drag.stroke.at(-1);
        if (Math.hypot(place[0] - last[0], place[1] - last[1]) * this.scale > 1.5) drag.stroke.push(place);
      }
    } else if (Math.hypot(now[0] - drag.screen[0], now[1] - drag.screen[1]) > DRAG) {
      const [x, y] = this.place(event);
      drag.box = [Math.min(drag.start[0], x), Math.min(drag.start[1], y), Math.max(drag.start[0], x), Math.max(drag.start[1], y)];
    }
    this.draw();
  }

  up(event) {
    const drag = this.drag;
    this.fingers.delete(event.pointerId);
    if (drag?.pinch) { if (!this.fingers.size) this.drag = null; return; }
    this.drag = null;
    if (!drag || drag.pan) return;
    if (drag.stroke) this.listeners.stroke(drag.stroke, this.radius / this.scale, drag.erase ? 0 : 1);
    else if (drag.box) this.listeners.box(...drag.box);
    else if (this.inside(drag.start)) this.listeners.point(...drag.start, drag.label);
    this.draw();
  }

  cancel(event) { this.fingers.delete(event.pointerId); this.drag = null; this.draw(); }
}
