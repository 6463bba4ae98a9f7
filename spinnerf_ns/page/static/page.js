// The page: asks the server for everything, shows it, and keeps nothing of its own but what is looked at.
import { Strip } from "./strip.js";
import { View } from "./view.js";
import { showCompare } from "./compare.js";
import { showSpace } from "./space.js";

const $ = (id) => document.getElementById(id);
const COLOURS = ["#e63c3c", "#3c82f0", "#3cb450", "#f0aa28", "#aa50dc", "#28bec8"]; // as painting.COLOURS
let state = null;
let current = 0; // the photo that is large
let active = 0; // the object that clicks are about
let tool = "on";
let waiting = 0;

const view = new View($("view"), { point, box, stroke, pan: () => tool === "pan", tool: () => tool });
const strip = new Strip($("strip"), (place) => show(place));

// ------------------------------------------------------------------------------------------------------------ asking
function say(text, bad = false, seconds = bad ? 8 : 3) {
  const said = $("said");
  said.textContent = text;
  said.className = text ? (bad ? "shown bad" : "shown") : "";
  clearTimeout(say.timer);
  if (text && seconds) say.timer = setTimeout(() => (said.className = ""), seconds * 1000);
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  const content = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(content.error || `the server answered ${answer.status}`);
  return content;
}

async function act(action) {
  waiting += 1;
  document.body.classList.add("waiting");
  try {
    const { state: news, result } = await ask("api/act", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(action),
    });
    take(news);
    return result ?? true;
  } catch (error) {
    say(error instanceof TypeError ? "the server does not answer; is it still running?" : error.message, true);
    view.pending = null;
    view.draw();
    return null;
  } finally {
    waiting -= 1;
    if (!waiting) document.body.classList.remove("waiting");
  }
}

let looking = false, again = false;
async function look() { // the latest state, once, however often it is asked for meanwhile
  if (looking) { again = true; return; }
  looking = true;
  try { take(await ask("api/state")); } catch (error) { // that the server is gone, the socket says
    if (!(error instanceof TypeError)) say(error.message, true, 0);
  }
  looking = false;
  if (again) { again = false; look(); }
}

function listen() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/events`);
  socket.onmessage = look;
  socket.onopen = () => { if (listen.lost) say("the server is back"); listen.lost = false; };
  socket.onclose = () => {
    if (!listen.lost) say("the server is gone; nothing is lost, this page goes on when it is back", true, 0);
    listen.lost = true;
    look(); // another server may be there, and want another token
    setTimeout(listen, 1000);
  };
}

// ----------------------------------------------------------------------------------------------------------- showing
const object = () => state.objects[active]?.name;
const photo = () => state.photos[current];

function take(news) {
  if (state && news.started === state.started && news.revision < state.revision) return;
  const first = state === null, before = state;
  state = news;
  if (active >= state.objects.length) active = state.objects.length - 1;
  document.title = `${state.scene}: point at what to remove`;
  if (first) current = Math.max(0, state.photos.findIndex((one) => state.objects.some((o) => state.prompts[o.name]?.[one.name])));
  if (first && !Object.values(state.prompts).some((photos) => Object.keys(photos).length)) current = state.photos.length >> 1;
  showObjects();
  strip.take(state, current);
  showPhoto();
  showButtons(before);
}

function showObjects() {
  const list = $("objects");
  list.replaceChildren(...state.objects.map((one, place) => {
    const item = document.createElement("div");
    item.className = place === active ? "object on" : "object";
    item.setAttribute("role", "option");
    item.innerHTML = "<input type=checkbox title='Remove this object'><i></i><span></span><button title='Rename'>✎</button><button title='Forget this object'>×</button>";
    item.querySelector("i").style.background = COLOURS[place % COLOURS.length];
    item.querySelector("span").textContent = one.name;
    const [tick, , , rename, forget] = item.children;
    tick.checked = one.selected;
    tick.onclick = (event) => { event.stopPropagation(); act({ do: "select", name: one.name, selected: tick.checked }); };
    rename.onclick = (event) => { event.stopPropagation(); renameObject(one.name); };
    forget.onclick = (event) => { event.stopPropagation(); act({ do: "remove_object", name: one.name }); };
    item.onclick = () => { active = place; showObjects(); showPhoto(); };
    return item;
  }));
  const more = document.createElement("button");
  more.id = "more";
  more.textContent = "+";
  more.title = "Another object (N)";
  more.onclick = addObject;
  list.append(more);
}

function maskAddress(place, at, size) {
  const entry = state.masks[state.objects[place].name]?.[state.photos[at].name];
  if (!entry || entry.kind === "lost") return null;
  return `mask/${place}/${at}/${size}?v=${encodeURIComponent(`${entry.version}-${place}`)}`;
}
strip.maskAddress = maskAddress;

function showPhoto() {
  const one = photo();
  const films = state.objects.map((_, place) => maskAddress(place, current, "large")).filter(Boolean);
  const prompts = state.objects.map((each, place) => ({ colour: COLOURS[place % COLOURS.length], active: place === active,
    prompt: state.prompts[each.name]?.[one.name] })).filter((each) => each.prompt);
  view.show({ address: `photo/${current}/large`, width: one.width, height: one.height, films, prompts });
  const entry = state.masks[object()]?.[one.name];
  const kinds = { prompt: "pointed at", tracked: "tracked", lost: "not found here" };
  const agrees = entry?.agreement == null ? "" : `, agrees ${Math.round(100 * entry.agreement)} %`;
  const pointed = state.objects.some((each) => Object.keys(state.prompts[each.name] || {}).length);
  $("hint").hidden = pointed || Object.keys(state.masks[object()] || {}).length > 0;
  $("caption").textContent = `${one.name}  ${current + 1}/${state.photos.length}` + (entry ? `: ${kinds[entry.kind]}${agrees}` : "");
}

function showButtons(before) {
  const pointed = state.objects.some((one) => Object.keys(state.prompts[one.name] || {}).length);
  const stale = state.objects.some((one) => one.stale);
  $("undo").disabled = !state.undo;
  $("redo").disabled = !state.redo;
  const tracking = state.tracking, removal = state.removal;
  $("track").disabled = !pointed || tracking.running;
  $("track").classList.toggle("next", pointed && stale && !tracking.running);
  $("save").disabled = $("remove").disabled = !pointed || stale || tracking.running;
  $("save").classList.toggle("next", pointed && !stale && !state.saved);
  $("remove").disabled ||= Boolean(removal?.running);
  $("remove").classList.toggle("next", pointed && !stale && state.saved && !removal?.running && !removal?.photos.length);
  if (state.interrupted && !tracking.running && (!before || before.tracking.running)) say("tracking was interrupted; press Track to do it again", true);
  else if (before?.tracking.running && !tracking.running) say(tracking.error || "tracked; look at the doubtful ones in the strip", Boolean(tracking.error));
  if (before?.removal?.running && !removal.running) {
    if (removal.error) say(removal.error, true, 0);
    else showCompare($("panel"), state, current, show, restart);
  }
  const bar = $("progress"), [text, progress, stop] = bar.children;
  bar.hidden = !(tracking.running || removal?.running);
  if (tracking.running) {
    text.textContent = `tracking ${tracking.what}`;
    Object.assign(progress, { max: tracking.total || 1, value: tracking.done });
    stop.onclick = () => act({ do: "stop_tracking" });
  } else if (removal?.running) {
    const one = removal.bars.at(-1);
    text.textContent = `${removal.stage ? `${removal.stage[0]}/${removal.stage[1]} ${removal.stage[2]}` : "starting"}${one ? `: ${one.what}` : ""}`;
    if (one?.total) Object.assign(progress, { max: one.total, value: one.done });
    else progress.removeAttribute("value");
    stop.onclick = () => act({ do: "stop_removal" });
  }
  $("remove").textContent = removal && !removal.running && removal.photos.length ? "Before/after" : "Remove";
}

function show(place) {
  current = Math.max(0, Math.min(state.photos.length - 1, place));
  if ($("compare")) $("panel").go(current);
  else $("panel").hidden = true;
  strip.take(state, current);
  showPhoto();
}

// ---------------------------------------------------------------------------------------------------------- pointing
const here = () => ({ name: object(), photo: photo().name });
function point(x, y, label) {
  view.pending = { points: [[x, y]], labels: [label] };
  act({ do: "point", ...here(), x, y, label: label ?? (tool === "off" ? 0 : 1) });
}
function box(x0, y0, x1, y1) { act({ do: "box", ...here(), x0, y0, x1, y1 }); }
function stroke(points, radius, label) { act({ do: "stroke", ...here(), points, radius, label }); }

async function addObject() {
  const name = prompt("Name of the other object", `object ${state.objects.length + 1}`);
  if (name && await act({ do: "add_object", name: name.trim() })) { active = state.objects.length - 1; showObjects(); showPhoto(); }
}
async function renameObject(name) {
  const to = prompt("New name", name);
  if (to) await act({ do: "rename_object", name, to: to.trim() });
}

function setTool(name) {
  tool = name;
  for (const button of document.querySelectorAll("[data-tool]")) button.classList.toggle("on", button.dataset.tool === name);
  $("size").hidden = !["brush", "erase"].includes(name);
  view.draw();
}

async function save() {
  const command = await act({ do: "save" });
  if (command) say(`saved. Next, or the Remove button:\n${command}`, false, 0);
}
async function remove() {
  if (state.removal && !state.removal.running && state.removal.photos.length && state.saved) return showCompare($("panel"), state, current, show, restart);
  return restart();
}
async function restart() { if (await act({ do: "remove" })) say("removing: this takes minutes; the page may be closed meanwhile"); }

function help() {
  const keys = { "click": "on the object", "right or Alt + click": "beside it", "drag": "a box around it", "1 / 2": "object / background",
    "B / E": "brush / eraser", "[ ]": "size of the brush", "wheel, + −": "zoom", "H, Space, middle button, two fingers": "move", "F": "whole photo",
    "Z / Y": "undo / redo", "C": "clear this photo", "← →": "previous / next photo", "D": "most doubtful photo", "N / O": "new / next object",
    "M": "hide masks", "T": "track", "Esc": "stop tracking", " 3": "3-D check", "S": "save" }; // numbers would come first
  const panel = $("panel");
  panel.replaceChildren();
  panel.innerHTML = "<div class=bar><b>Keys</b><span class=grow></span><button>Close</button></div><ul></ul>";
  panel.querySelector("button").onclick = () => (panel.hidden = true);
  for (const [key, text] of Object.entries(keys)) {
    const line = document.createElement("li");
    const name = document.createElement("kbd");
    name.textContent = key.trim();
    line.append(name, ` ${text}`);
    panel.querySelector("ul").append(line);
  }
  panel.hidden = false;
}

const buttons = {
  undo: () => act({ do: "undo" }), redo: () => act({ do: "redo" }), clear: () => act({ do: "clear", ...here() }), fit: () => view.fit(),
  track: () => act({ do: "track" }), save, remove, help, space: () => showSpace($("panel"), `api/space/${active}`, current),
};
for (const [id, action] of Object.entries(buttons)) $(id).onclick = action;
for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => setTool(button.dataset.tool);
for (const button of document.querySelectorAll("[data-order]")) button.onclick = () => strip.sort(button.dataset.order, current);
$("size").firstElementChild.oninput = (event) => { view.radius = Number(event.target.value); view.draw(); };
$("upload").onchange = async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  try { take((await ask(`api/mask/${active}/${current}`, { method: "POST", headers: { "Content-Type": file.type }, body: file })).state); }
  catch (error) { say(error.message, true); }
  event.target.value = "";
};

const keys = {
  1: () => setTool("on"), 2: () => setTool("off"), b: () => setTool("brush"), e: () => setTool("erase"), h: () => setTool("pan"),
  z: buttons.undo, y: buttons.redo, c: buttons.clear, f: buttons.fit, t: buttons.track, s: save, n: addObject, 3: buttons.space, "?": help,
  o: () => { active = (active + 1) % state.objects.length; showObjects(); showPhoto(); },
  m: () => { view.hidden = !view.hidden; view.draw(); }, d: () => { const [place] = strip.doubtful(); if (place !== undefined) show(place); },
  ArrowLeft: () => show(strip.beside(current, -1)), ArrowRight: () => show(strip.beside(current, 1)),
  "[": () => resize(-2), "]": () => resize(2), "+": () => view.zoom(1.25), "-": () => view.zoom(0.8),
  Escape: () => { if (!$("panel").hidden) $("panel").hidden = true; else if (state.tracking.running) act({ do: "stop_tracking" }); else say(""); },
};
function resize(by) { view.radius = Math.max(1, Math.min(60, view.radius + by)); $("size").firstElementChild.value = view.radius; view.draw(); }
document.addEventListener("keydown", (event) => {
  if (!state || event.target.matches("input:not([type=range]):not([type=checkbox])") || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") { event.preventDefault(); act({ do: event.shiftKey ? "redo" : "undo" }); }
    if (key === "y") { event.preventDefault(); act({ do: "redo" }); }
    if (key === "s") { event.preventDefault(); save(); }
    return;
  }
  if (keys[key]) { event.preventDefault(); keys[key](); }
});

setTool("on");
listen();
