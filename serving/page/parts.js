// What our pages' scripts have in common.

// Okabe and Ito (2008): told apart by people who see colours differently. An option that is named after a colour gets
// the one nearest to it, since a blue bar that stands for "red" would be read wrongly.
export const NAMED = { red: "#D55E00", green: "#009E73", blue: "#0072B2", purple: "#CC79A7", yellow: "#F0E442", grey: "#999999", orange: "#E69F00" };
const ORDER = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"];

export function palette(words) {
  const named = words.map((text) => NAMED[text.split(/\W+/).find((word) => word in NAMED)]);
  const free = ORDER.filter((colour) => !named.includes(colour));
  let next = 0;
  return named.map((colour) => colour ?? (free.length ? free : ORDER)[next++ % (free.length || ORDER.length)]);
}

export const percent = (share, places = 0) => `${(100 * share).toFixed(places)}%`;

export function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// Pairs of a name and a value, as a list of definitions.
export function showFigures(list, figures) {
  list.replaceChildren(...figures.map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", name), element("dd", String(value)));
    return pair;
  }));
}
