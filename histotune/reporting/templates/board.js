"use strict";
// The leaderboard: rows are plain values of the page's data, of which only one page of lines stands in the document.
function leaderboard(board) {
  const PAGE = 25;
  const at = (id) => document.getElementById(id);
  const table = at("board-table"), head = table.tHead.rows[0], body = table.tBodies[0];
  const words = board.rows.map((row) => row.filter((v) => typeof v === "string").join(" ").toLowerCase());
  const tied = new Set(board.tied);
  const state = { column: -1, down: false, filter: "", page: 0, all: false, open: new Set() };
  let order = [];

  const make = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const shown = () => board.columns.map((column, k) => k).filter((k) => state.all || board.columns[k].shown);
  const write = (value, column) => {
    if (value === null) return "";
    if (!column.numeric) return value;
    if (column.whole) return value.toLocaleString("en");
    return value.toLocaleString("en", { minimumFractionDigits: column.digits, maximumFractionDigits: column.digits });
  };

  function arrange() {
    const asked = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
    order = board.rows.map((row, k) => k).filter((k) => asked.every((word) => words[k].includes(word)));
    if (state.column < 0) return;
    const sign = state.down ? -1 : 1;
    const key = (k) => board.rows[k][state.column];
    order.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === y) return a - b;
      if (x === null || x === "") return 1;  // what is unknown stands last, whichever way
      if (y === null || y === "") return -1;
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
  }

  function drawHead() {
    head.replaceChildren(...shown().map((k) => {
      const column = board.columns[k], cell = make("th", undefined, column.numeric ? "num" : "");
      const button = make("button", column.label);
      button.type = "button";
      cell.scope = "col";
      cell.setAttribute("aria-sort", state.column !== k ? "none" : state.down ? "descending" : "ascending");
      button.addEventListener("click", () => {
        const best = column.better > 0;  // the first click shows the best on top
        state.down = state.column === k ? !state.down : best;
        state.column = k;
        state.page = 0;
        draw();
        head.cells[shown().indexOf(k)].firstChild.focus();
      });
      cell.append(button);
      return cell;
    }));
  }

  function draw() {
    arrange();
    drawHead();
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const lines = order.slice(state.page * PAGE, (state.page + 1) * PAGE);
    body.replaceChildren(...lines.flatMap((k) => (state.open.has(k) ? [line(k), more(k)] : [line(k)])));
    at("board-count").textContent = `${order.length.toLocaleString("en")} of ${board.rows.length.toLocaleString("en")} lines`;
    at("board-page").textContent = `page ${state.page + 1} of ${pages}`;
    at("board-back").disabled = state.page === 0;
    at("board-next").disabled = state.page + 1 >= pages;
  }

  function line(k) {
    const row = make("tr");
    row.dataset.line = k;
    for (const c of shown()) {
      const column = board.columns[c], cell = make("td", undefined, column.numeric ? "num" : "");
      if (column.name === "name") {
        const button = make("button", board.rows[k][c]);
        button.type = "button";
        button.setAttribute("aria-expanded", state.open.has(k));
        button.setAttribute("aria-label", `${board.rows[k][c]}: parameters and curve`);
        button.addEventListener("click", () => {
          state.open.has(k) ? state.open.delete(k) : state.open.add(k);
          draw();
          body.querySelector(`tr[data-line="${k}"] button`).focus();
        });
        cell.append(button);
        if (tied.has(k)) cell.append(" ", make("span", "tied", "badge good"));
      } else {
        cell.textContent = write(board.rows[k][c], column);
      }
      row.append(cell);
    }
    return row;
  }

  function more(k) {
    const row = make("tr"), cell = make("td"), box = make("div", undefined, "more"), values = board.values[k];
    cell.colSpan = shown().length;
    const list = make("dl");
    board.parameters.forEach((name, p) => {
      if (!values || values[p] === null) return;
      const pair = make("div");
      pair.append(make("dt", name), make("dd", String(values[p])));
      list.append(pair);
    });
    box.append(list.children.length ? list : make("p", "It has no parameters of its own."));
    const curve = (board.curves[k] || []).filter((value) => value !== null);
    box.append(curve.length > 1 ? sketch(board.curves[k]) : make("p", "Its curve is not on this page.", "unknown"));
    cell.append(box);
    row.append(cell);
    return row;
  }

  function sketch(values) {
    const space = "http://www.w3.org/2000/svg", wide = 320, high = 92, left = 46, foot = 18;
    const known = values.filter((v) => v !== null), low = Math.min(...known), top = Math.max(...known);
    const x = (k) => left + (k * (wide - left - 6)) / Math.max(1, values.length - 1);
    const y = (v) => 8 + ((top - v) / (top - low || 1)) * (high - foot - 12);
    const svg = document.createElementNS(space, "svg");
    const add = (name, attributes, text) => {
      const element = document.createElementNS(space, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      if (text !== undefined) element.textContent = text;
      svg.append(element);
    };
    svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    svg.setAttribute("width", wide);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${board.metric} over ${values.length} epochs, from ${low} to ${top}`);
    const points = values.map((v, k) => (v === null ? "" : `${x(k).toFixed(1)},${y(v).toFixed(1)}`)).join(" ");
    add("polyline", { points, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    for (const value of new Set([low, top])) {
      add("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, value.toFixed(3));
    }
    add("text", { x: left, y: high - 4, "font-size": 11, fill: "currentColor" }, "epoch 1");
    add("text", { x: wide - 6, y: high - 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, String(values.length));
    return svg;
  }

  const turn = (step) => { state.page += step; draw(); };
  at("board-filter").addEventListener("input", (event) => { state.filter = event.target.value; state.page = 0; draw(); });
  at("board-all").addEventListener("change", (event) => { state.all = event.target.checked; draw(); });
  at("board-back").addEventListener("click", () => turn(-1));
  at("board-next").addEventListener("click", () => turn(1));
  draw();
}
