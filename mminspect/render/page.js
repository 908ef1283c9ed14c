"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [START, END, STATE, LINK, SPAN, TYPE, LEVEL, COUNTS] = [0, 1, 2, 3, 4, 5, 6, 7];
  const lanes = [
    { name: "findings", height: 22 },
    { name: "what pages are", height: 56, marks: data.states, column: STATE },
    { name: "zone by link", height: 30, marks: data.zones, column: LINK },
    { name: "zone by span", height: 30, marks: data.spans, column: SPAN },
    { name: "migratetype", height: 30, marks: data.types, column: TYPE },
  ].filter((lane) => !lane.marks || lane.marks.length);
  const LABEL = 18, AXIS = 18, LEVELS = data.levels;
  const main = document.getElementById("map"), overview = document.getElementById("overview");
  const here = document.getElementById("here"), view = document.getElementById("view");
  const rows = [...document.querySelectorAll("tr[data-start]")];
  document.body.classList.add("live");
  for (const mark of document.querySelectorAll("b[data-color]")) {
    mark.style.background = mark.dataset.color;
    mark.style.color = mark.dataset.ink;
  }

  // Holes take no room: a place on the axis is the number of pages before it that are there.
  const places = [0];
  for (const cell of data.cells) places.push(places[places.length - 1] + cell[END] - cell[START]);
  const total = places[places.length - 1] || 1;
  const cellAt = (place) => {
    let low = 0, high = data.cells.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (places[middle] <= place) low = middle; else high = middle - 1;
    }
    return low;
  };
  const placeOf = (pfn) => {
    let low = 0, high = data.cells.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data.cells[middle][END] <= pfn) low = middle + 1; else high = middle;
    }
    if (low === data.cells.length) return total;
    return places[low] + Math.max(0, pfn - data.cells[low][START]);
  };
  // What lies in a hole is drawn at its edge.
  const wrong = (data.wrong || []).map(([start, end, level]) => {
    const from = Math.min(placeOf(start), total - 1);
    return [from, Math.max(placeOf(end), from + 1), level];
  });
  const pfnOf = (place) => {
    const at = cellAt(Math.min(Math.max(place, 0), total - 1));
    return data.cells[at][START] + Math.floor(Math.min(Math.max(place, 0), total - 1)) - places[at];
  };
  const hex = (number) => "0x" + number.toString(16);
  const address = (pfn) => "0x" + (BigInt(pfn) * BigInt(data.pageSize)).toString(16);
  const size = (pages) => {
    let bytes = pages * data.pageSize, unit = 0;
    while (bytes >= 1024 && unit < 5) { bytes /= 1024; unit += 1; }
    return `${+bytes.toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
  };

  let from = 0, to = total, cursor = null, chosen = null, printing = false;
  const least = () => Math.min(total, Math.max(8, main.clientWidth / 24));

  const paint = (canvas, low, high, drawn, axis) => {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth;
    const height = drawn.reduce((sum, lane) => sum + lane.height + (axis ? LABEL : 0), axis ? AXIS : 0);
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d", { willReadFrequently: true }), style = getComputedStyle(document.body);
    // Paper is light, whatever the screen is.
    const ink = printing ? "#1b1d21" : style.getPropertyValue("--ink"), soft = printing ? "#5c636d" : style.getPropertyValue("--soft");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "top";
    const columns = canvas.width, scale = columns / (high - low), first = cellAt(low);
    let top = 0;
    for (const lane of drawn) {
      if (axis) {
        context.fillStyle = soft;
        context.fillText(lane.name, 2, top + 3);
        top += LABEL;
      }
      if (!lane.marks) {
        context.fillStyle = printing ? "#d5d9de" : style.getPropertyValue("--line");
        context.fillRect(0, top, width, lane.height);
      }
      const kinds = lane.marks ? lane.marks.length : 1, sums = new Float64Array(columns * kinds);
      const best = new Float64Array(columns), mark = new Int16Array(columns).fill(-1);
      const fill = (start, stop, value) => {
        const left = (Math.max(start, low) - low) * scale, right = (Math.min(stop, high) - low) * scale;
        let begin = Math.floor(left), end = Math.min(columns, Math.max(begin + 1, Math.ceil(right)));
        if (!lane.marks) {
          // However small, it is seen.
          const seen = Math.ceil(3 * ratio);
          begin = Math.max(0, Math.min(begin, columns - seen));
          end = Math.min(columns, Math.max(end, begin + seen));
        }
        for (let x = begin; x < end; x += 1) {
          // A finding always wins its place; of the rest, what has most of it.
          const weight = lane.marks ? (sums[x * kinds + value] += Math.min(x + 1, right) - Math.max(x, left)) : value;
          if (weight > best[x]) { best[x] = weight; mark[x] = value; }
        }
      };
      // A cell can have many pages; which of them are wrong is known unless there are too many.
      if (!lane.marks && data.wrong) {
        for (const [start, stop, value] of wrong) if (start < high && stop > low) fill(start, stop, value);
      } else {
        for (let at = first; at < data.cells.length && places[at] < high; at += 1) {
          const cell = data.cells[at], value = lane.marks ? cell[lane.column] : cell[LEVEL];
          if (lane.marks || value) fill(places[at], places[at + 1], value);
        }
      }
      for (let x = 0; x < columns;) {
        let end = x + 1;
        while (end < columns && mark[end] === mark[x]) end += 1;
        if (mark[x] >= 0) {
          const what = lane.marks ? lane.marks[mark[x]] : LEVELS[mark[x]];
          context.fillStyle = what.color;
          context.fillRect(x / ratio, top, (end - x) / ratio, lane.height);
          if (axis && (end - x) / ratio > 14) {
            context.fillStyle = what.ink;
            context.fillText(what.letter, (x + end) / 2 / ratio - 3, top + lane.height / 2 - 6);
          }
        }
        x = end;
      }
      top += lane.height;
    }
    if (axis) {
      context.fillStyle = soft;
      for (let at = first; at < data.cells.length && places[at] < high; at += 1) {
        // Where memory is missing. Findings are often there, so their lane stays as it is.
        if (at && data.cells[at - 1][END] !== data.cells[at][START] && places[at] > low) {
          const below = LABEL + drawn[0].height;
          context.fillRect(((places[at] - low) * scale) / ratio - 1, below, 2, top - below);
        }
      }
      const steps = Math.max(1, Math.floor(width / 110));
      for (let step = 0; step < steps; step += 1) {
        const place = low + ((high - low) * step) / steps;
        context.fillText(hex(pfnOf(place)), (width * step) / steps + 2, top + 3);
      }
      if (cursor !== null && cursor >= low && cursor < high) {
        context.fillStyle = ink;
        context.fillRect((((cursor - low) * scale) / ratio) - .5, 0, 1.5, top);
      }
    } else {
      context.strokeStyle = ink;
      context.lineWidth = 2;
      const left = ((from - low) * scale) / ratio, right = ((to - low) * scale) / ratio;
      context.strokeRect(Math.max(1, left), 1, Math.max(4, right - left - 2), height - 2);
    }
  };

  const paintAll = () => {
    paint(main, from, to, lanes, true);
    paint(overview, 0, total, [{ ...lanes[1], height: 18 }, { ...lanes[0], height: 8 }], false);
    view.textContent = `${hex(pfnOf(from))} to ${hex(pfnOf(to - 1) + 1)}, ${size(to - from)}`;
  };
  let waiting = false;
  const draw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      paintAll();
    });
  };
  const show = (low, high) => {
    const pages = Math.min(total, Math.max(least(), high - low));
    from = Math.min(Math.max(0, low), total - pages);
    to = from + pages;
    draw();
  };
  const zoom = (factor, place) => show(place - (place - from) * factor, place + (to - place) * factor);
  const tell = (place) => {
    cursor = Math.min(Math.max(0, place), total - 1);
    const at = cellAt(cursor), cell = data.cells[at], pfn = pfnOf(cursor);
    // A report tells neither what pages are nor where they link to.
    const what = cell[COUNTS].length || !data.states.length ? [] : [data.states[cell[STATE]].name];
    for (let n = 0; n < cell[COUNTS].length; n += 2) {
      what.push(cell[COUNTS].length > 2 ? `${data.classes[cell[COUNTS][n]]} ${cell[COUNTS][n + 1]}` : data.classes[cell[COUNTS][n]]);
    }
    const block = pfn - (pfn % data.block), lines = [
      `pfn ${hex(pfn)}, address ${address(pfn)}, pageblock ${hex(block)}`,
      (data.states.length ? `${what.join(", ")}; ` : "") +
        (data.zones.length ? `links to ${data.zones[cell[LINK]].name}, ` : "") +
        `spanned by ${data.spans[cell[SPAN]].name}` +
        (data.types.length ? `, ${data.types[cell[TYPE]].name}` : ""),
      `of ${hex(cell[START])} to ${hex(cell[END])}, ${cell[END] - cell[START]} pages` +
        (cell[LEVEL] ? `; ${LEVELS[cell[LEVEL]].name}` : ""),
    ];
    here.textContent = lines.join("\n");
    draw();
    return pfn;
  };
  const choose = (row, scroll) => {
    if (chosen) chosen.classList.remove("chosen");
    chosen = row;
    if (!row) return;
    row.classList.add("chosen");
    if (scroll) row.scrollIntoView({ block: "center" });
  };
  const goTo = (pfn, pages) => {
    const place = placeOf(pfn), room = Math.max(pages * 4, least() * 2);
    show(place + pages / 2 - room / 2, place + pages / 2 + room / 2);
    tell(place);
  };
  const findingAt = (pfn) => rows.filter((row) => !row.hidden && +row.dataset.start <= pfn && pfn < +row.dataset.end)
    .sort((a, b) => a.dataset.end - a.dataset.start - (b.dataset.end - b.dataset.start))[0];

  const placeAt = (event) => {
    const box = event.currentTarget.getBoundingClientRect(), part = (event.clientX - box.left) / box.width;
    return event.currentTarget === main ? from + part * (to - from) : part * total;
  };
  main.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const by = ((event.deltaX || event.deltaY) / main.clientWidth) * (to - from);
      show(from + by, to + by);
    } else zoom(Math.exp(event.deltaY / 400), placeAt(event));
  }, { passive: false });
  const pointers = new Map();
  let moved = 0;
  main.addEventListener("pointerdown", (event) => {
    main.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event.clientX);
    moved = 0;
  });
  main.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (before === undefined) { tell(placeAt(event)); return; }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, x]) => x);
    const by = event.clientX - before;
    moved += Math.abs(by);
    if (others.length) {
      const old = Math.abs(before - others[0]), now = Math.abs(event.clientX - others[0]);
      if (old > 8 && now > 8) zoom(old / now, placeAt(event));
    } else {
      const pages = (by / main.clientWidth) * (to - from);
      show(from - pages, to - pages);
    }
    pointers.set(event.pointerId, event.clientX);
  });
  for (const name of ["pointerup", "pointercancel"]) main.addEventListener(name, (event) => pointers.delete(event.pointerId));
  main.addEventListener("click", (event) => {
    if (moved < 5) choose(findingAt(tell(placeAt(event))), true);
  });
  const center = (event) => {
    const place = placeAt(event), half = (to - from) / 2;
    show(place - half, place + half);
  };
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    center(event);
  });
  overview.addEventListener("pointermove", (event) => { if (overview.hasPointerCapture(event.pointerId)) center(event); });
  const keys = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), PageUp: () => show(2 * from - to, from), PageDown: () => show(to, 2 * to - from),
    "+": () => zoom(.5, middle()), "=": () => zoom(.5, middle()), "-": () => zoom(2, middle()),
    Home: () => show(0, total), Enter: () => cursor !== null && choose(findingAt(pfnOf(cursor)), true),
    n: () => next(1), p: () => next(-1),
  };
  const middle = () => (cursor !== null && cursor >= from && cursor < to ? cursor : (from + to) / 2);
  const step = (by) => {
    const place = (cursor === null ? (from + to) / 2 : cursor) + (by * (to - from)) / 40;
    tell(place);
    if (cursor < from || cursor >= to) { const half = (to - from) / 2; show(cursor - half, cursor + half); }
  };
  const next = (by) => {
    const there = rows.filter((row) => !row.hidden && row.dataset.end > row.dataset.start);
    if (!there.length) return;
    const row = there[(there.indexOf(chosen) + by + there.length) % there.length];
    choose(row, false);
    goTo(+row.dataset.start, row.dataset.end - row.dataset.start);
  };
  main.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
  });
  for (const button of document.querySelectorAll("button[data-key]")) {
    button.addEventListener("click", () => keys[button.dataset.key]());
  }
  for (const row of rows) {
    row.tabIndex = 0;
    const open = (event) => {
      if (event.target.closest("details, a")) return;
      choose(row, false);
      // The address is there to be copied; it must not make the page move again.
      history.replaceState(null, "", `#pfn=${hex(+row.dataset.start)}`);
      goTo(+row.dataset.start, Math.max(1, row.dataset.end - row.dataset.start));
    };
    row.addEventListener("click", open);
    row.addEventListener("keydown", (event) => event.key === "Enter" && open(event));
  }
  const filter = () => {
    const severities = new Set([...document.querySelectorAll("input[name=severity]:checked")].map((box) => box.value));
    const rule = document.getElementById("rule").value;
    for (const row of rows) row.hidden = !severities.has(row.dataset.severity) || (rule !== "" && row.dataset.rule !== rule);
  };
  for (const control of document.querySelectorAll("input[name=severity], #rule")) control.addEventListener("change", filter);
  const followHash = () => {
    const match = /^#pfn=(0x[0-9a-f]{1,13}|\d{1,15})$/i.exec(location.hash);
    if (!match) return;
    const pfn = Number(match[1]);
    goTo(pfn, 1);
    choose(findingAt(pfn), false);
  };
  window.addEventListener("hashchange", followHash);
  window.addEventListener("resize", draw);
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
    printing = true;
    paintAll();
  });
  window.addEventListener("afterprint", () => { printing = false; draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  show(0, total);
  followHash();
})();
