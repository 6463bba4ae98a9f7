// The 3-D check: the object's points and the cameras, to be turned by hand.
export async function showSpace(panel, address, current) {
  panel.hidden = false;
  panel.innerHTML = "<div class=bar><b>The object, carved from all its masks</b><span></span><span class=grow></span><button>Close</button></div><canvas></canvas>";
  const [bar, canvas] = panel.children, note = bar.children[1];
  bar.querySelector("button").onclick = () => (panel.hidden = true);
  note.textContent = "…";
  let content;
  try {
    const answer = await fetch(address);
    content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
  } catch (error) { note.textContent = error.message; return; }
  const { points, cameras } = content;
  canvas.dataset.points = points.length;
  if (!points.length) { note.textContent = "nothing yet: track it first; or its masks have nothing in common"; return; }
  note.textContent = "drag to turn, wheel or two fingers to zoom; what hangs off it is in too many masks";
  const middle = [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  const size = Math.max(...points.map((point) => Math.hypot(...[0, 1, 2].map((axis) => point[axis] - middle[axis]))));
  const start = cameras[current].slice(0, 3).map((value, axis) => value - middle[axis]);
  let turn = Math.atan2(start[1], start[0]) + 0.9, tilt = Math.asin(start[2] / Math.hypot(...start)) + 0.25, zoom = 1;

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const towards = [Math.cos(tilt) * Math.cos(turn), Math.cos(tilt) * Math.sin(turn), Math.sin(tilt)];
    const right = [-Math.sin(turn), Math.cos(turn), 0];
    const up = [-Math.sin(tilt) * Math.cos(turn), -Math.sin(tilt) * Math.sin(turn), Math.cos(tilt)];
    const unit = Math.min(width, height) / (2.6 * size) * zoom, far = 6 * size;
    const project = (point) => {
      const [x, y, z] = [0, 1, 2].map((axis) => point[axis] - middle[axis]);
      const depth = x * towards[0] + y * towards[1] + z * towards[2], near = far / Math.max(0.05 * far, far - depth);
      return [width / 2 + (x * right[0] + y * right[1]) * unit * near, height / 2 - (x * up[0] + y * up[1] + z * up[2]) * unit * near, depth];
    };
    context.fillStyle = "#17191d";
    context.fillRect(0, 0, width, height);
    const dot = Math.max(2, unit * size / 20);
    for (const [place, point] of points.map((point) => [project(point), point]).sort((a, b) => a[0][2] - b[0][2])) {
      const shade = 0.65 + 0.35 * Math.max(-1, Math.min(1, place[2] / size));
      context.fillStyle = `rgb(${point.slice(3).map((value) => Math.round(value * shade)).join()})`;
      context.fillRect(place[0] - dot / 2, place[1] - dot / 2, dot, dot);
    }
    cameras.forEach((camera, index) => {
      const [x, y, depth] = project(camera);
      if (depth > 0.9 * far) return;
      const [tipX, tipY] = project([0, 1, 2].map((axis) => camera[axis] + camera[axis + 3] * size * 0.25));
      context.strokeStyle = context.fillStyle = index === current ? "#4d9dff" : "#8a9099";
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(tipX, tipY);
      context.stroke();
      context.beginPath();
      context.arc(x, y, index === current ? 5 : 2.5, 0, 7);
      context.fill();
    });
  }

  const fingers = new Map();
  canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, [event.offsetX, event.offsetY]); };
  canvas.onpointerup = canvas.onpointercancel = (event) => fingers.delete(event.pointerId);
  canvas.onpointermove = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
    const old = fingers.size === 2 ? apart() : 0;
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (fingers.size === 2) zoom *= apart() / Math.max(1, old);
    else {
      turn -= (event.offsetX - before[0]) * 0.008;
      tilt = Math.max(-1.5, Math.min(1.5, tilt + (event.offsetY - before[1]) * 0.008));
    }
    draw();
  };
  canvas.onwheel = (event) => { event.preventDefault(); zoom *= Math.exp(-event.deltaY * 0.001); draw(); };
  new ResizeObserver(draw).observe(canvas);
  draw();
}
