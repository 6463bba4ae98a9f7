// The photos as a strip: along the camera path, or those first whose masks agree least with the others.
export class Strip {
  constructor(element, choose) {
    Object.assign(this, { element, choose, order: "path", shots: [] });
    // A photo is loaded when it comes near the part that is seen: a capture may have hundreds.
    this.watch = new IntersectionObserver((entries) => {
      for (const entry of entries) { entry.target.near = entry.isIntersecting; if (entry.isIntersecting) this.fill(entry.target); }
    }, { root: element, rootMargin: "400px" });
  }

  // Places of the photos whose masks are lost or agree less than most, worst first.
  doubtful() {
    const worst = (name) => Math.min(...this.state.objects.map((one) => {
      const entry = this.state.masks[one.name]?.[name];
      if (!entry || entry.kind === "prompt") return 2; // not tracked yet, or corrected by hand
      return entry.kind === "lost" ? -1 : entry.agreement ?? 2;
    }));
    const worth = this.state.photos.map((one) => worst(one.name));
    return worth.map((_, place) => place).filter((place) => worth[place] < 2).sort((a, b) => worth[a] - worth[b] || a - b);
  }

  places() {
    const all = this.state.photos.map((_, place) => place);
    if (this.order !== "doubt") return all;
    const first = this.doubtful();
    return [...first, ...all.filter((place) => !first.includes(place))];
  }

  beside(place, by) { const places = this.places(); return places[Math.max(0, Math.min(places.length - 1, places.indexOf(place) + by))]; }

  take(state, current) {
    this.state = state;
    if (this.shots.length !== state.photos.length) this.build();
    const places = this.places(), key = places.join();
    if (key !== this.shown) { this.shown = key; this.element.replaceChildren(...places.map((place) => this.shots[place])); }
    const median = this.median();
    for (const shot of this.shots) {
      shot.classList.toggle("on", shot.place === current);
      this.mark(shot, median);
      if (shot.near) this.fill(shot);
    }
    for (const button of document.querySelectorAll("[data-order]")) button.classList.toggle("on", button.dataset.order === this.order);
    if (current !== this.current) { this.current = current; this.shots[current]?.scrollIntoView({ block: "nearest", inline: "center" }); }
  }

  sort(order, current) {
    this.order = order;
    this.take(this.state, current);
    if (order === "doubt") this.element.scrollLeft = 0;
    else this.shots[current]?.scrollIntoView({ block: "nearest", inline: "center" });
  }

  build() {
    this.shots = this.state.photos.map((one, place) => {
      const shot = document.createElement("div");
      shot.className = "shot";
      shot.place = place;
      shot.title = one.name;
      shot.setAttribute("role", "option");
      shot.style.aspectRatio = `${one.width} / ${one.height}`;
      shot.append(document.createElement("b"));
      shot.onclick = () => this.choose(place);
      this.watch.observe(shot);
      return shot;
    });
    this.shown = null;
  }

  median() {
    const all = Object.values(this.state.masks).flatMap((photos) => Object.values(photos)).map((one) => one.agreement).filter((one) => one != null).sort((a, b) => a - b);
    return all.length ? all[all.length >> 1] : 1;
  }

  mark(shot, median) {
    const entries = this.state.objects.map((one) => this.state.masks[one.name]?.[this.state.photos[shot.place].name]).filter(Boolean);
    const mark = shot.querySelector("b"), known = entries.filter((one) => one.agreement != null).map((one) => one.agreement);
    const worst = known.length ? Math.min(...known) : null, lost = entries.some((one) => one.kind === "lost");
    const mine = entries.some((one) => one.kind === "prompt");
    mark.textContent = lost ? "lost" : mine ? "✎" : worst === null ? "" : Math.round(100 * worst);
    mark.className = lost || (!mine && worst !== null && worst < median - 0.15) ? "bad" : mine ? "mine" : "";
  }

  fill(shot) { // the photo, and a film per object
    if (!shot.querySelector("img:not(.film)")) {
      const image = new Image();
      image.loading = "lazy";
      image.src = `photo/${shot.place}/small`;
      shot.prepend(image);
    }
    const wanted = this.state.objects.map((_, place) => this.maskAddress(place, shot.place, "small")).filter(Boolean);
    if (wanted.join() === shot.films) return;
    shot.films = wanted.join();
    const old = [...shot.querySelectorAll(".film")];
    const films = wanted.map((address) => Object.assign(new Image(), { className: "film", src: address }));
    Promise.allSettled(films.map((film) => film.decode())).then(() => {
      if (wanted.join() !== shot.films) return;
      for (const film of old) film.remove();
      shot.append(...films, shot.querySelector("b"));
    });
  }
}
