// Drawings: each is drawn when it comes into sight, in the colours of the page.
const DATA = JSON.parse(document.getElementById("data").textContent);
const NEUTRAL = { "#222222": "#e6e9ec", "#5a5a5a": "#a3abb4", "#e4e4e4": "#363d45", "#ffffff": "#15181c", "#fff": "#15181c" };
const SETTINGS = { responsive: true, displayModeBar: false };
let dark = matchMedia("(prefers-color-scheme: dark)").matches;

function light(color) {
  const parts = [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16) / 255);
  const linear = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function forDark(color) {
  // A neutral has its counterpart; any other colour is mixed with white until it stands out from the dark paper, 4.5:1.
  const named = NEUTRAL[color.toLowerCase()];
  if (named || !/^#[0-9a-f]{6}$/i.test(color)) return named || color;
  const paper = light("#15181c");
  let mixed = color;
  for (let share = 0; share < 1 && (light(mixed) + 0.05) / (paper + 0.05) < 4.5; share += 0.1) {
    const part = (k) => Math.round(parseInt(color.slice(k, k + 2), 16) * (1 - share) + 255 * share);
    mixed = "#" + [1, 3, 5].map((k) => part(k).toString(16).padStart(2, "0")).join("");
  }
  return mixed;
}

function recolored(value, key) {
  if (key === "colorscale") return value;
  if (Array.isArray(value)) return key && /color$/.test(key) ? value.map((v) => recolored(v, key)) : value.map((v) => recolored(v));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, recolored(item, name)]));
  }
  return typeof value === "string" && key && /color$/.test(key) ? forDark(value) : value;
}

function draw(place) {
  const found = DATA.figures[place.dataset.figure];
  if (!found) return;
  const layout = { ...(dark ? recolored(found.layout) : found.layout), autosize: true };
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: dark ? "#2b3238" : "#ffffff", font: { color: dark ? "#e6e9ec" : "#1f2328" } };
  place.dataset.drawn = dark ? "dark" : "light";
  const data = structuredClone(dark ? recolored(found.data) : found.data);
  Plotly.react(place, data, structuredClone(layout), SETTINGS);
}

const places = [...document.querySelectorAll(".plot")];

function theme(wanted) {
  dark = wanted;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = dark ? "Light" : "Dark";
  button.setAttribute("aria-pressed", String(dark));
  for (const place of places) if (place.dataset.drawn) draw(place);
}

function print() {
  theme(false);
  for (const place of places) {
    if (!place.dataset.drawn) draw(place);
    Plotly.relayout(place, { width: Math.min(640, place.clientWidth || 640) });
  }
}

document.getElementById("theme").addEventListener("click", () => theme(!dark));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => theme(event.matches));
if (matchMedia("(max-width: 860px)").matches) document.getElementById("contents").open = false;
theme(dark);
if (DATA.board) leaderboard(DATA.board);
if (location.hash === "#print") print();
const sight = new IntersectionObserver((seen) => {
  for (const one of seen) {
    if (!one.isIntersecting || one.target.dataset.drawn) continue;
    sight.unobserve(one.target);
    draw(one.target);
  }
}, { rootMargin: "400px" });
for (const place of places) sight.observe(place);
addEventListener("beforeprint", print);
addEventListener("afterprint", () => {
  for (const place of places) if (place.dataset.drawn) Plotly.relayout(place, { width: null, autosize: true });
});
