// Canvases: the frame, the strip of frames around it, and the posterior over the demonstration.
import { NAMED } from "./parts.js";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A canvas as sharp as the screen; its pen works in CSS pixels.
function pen(canvas) {
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function fit(context, picture, x, y, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const w = picture.width * scale, h = picture.height * scale;
  context.drawImage(picture, x + (width - w) / 2, y + (height - h) / 2, w, h);
}

export function drawFrame(canvas, picture, asked) {
  const { context, width, height } = pen(canvas);
  if (picture) fit(context, picture, 0, 0, width, height);
  if (asked) {
    context.strokeStyle = style("--strong");
    context.lineWidth = 4;
    context.strokeRect(2, 2, width - 4, height - 4);
  }
}

export function drawStrip(canvas, q, cursor, low, high, pictures) {
  const { context, width, height } = pen(canvas);
  if (!q) return;
  const side = height - 8, count = Math.max(3, Math.floor(width / (side + 6)) | 1), half = count >> 1;
  const gap = (width - count * side) / Math.max(count - 1, 1);
  for (let i = 0; i < count; i++) {
    const t = cursor - half + i, x = i * (side + gap);
    if (t < 0 || t >= q.length) continue;
    const picture = pictures.get(q.trajectory, t);
    context.fillStyle = style("--hover");
    context.fillRect(x, 4, side, side);
    if (picture) fit(context, picture, x, 4, side, side);
    if (t === cursor || t === q.step || (low < high && t >= low && t <= high)) {
      context.strokeStyle = t === q.step || t !== cursor ? style("--strong") : style("--soft");
      context.lineWidth = t === cursor || t === q.step ? 3 : 1.5;
      context.strokeRect(x + 1, 5, side - 2, side - 2);
    }
  }
}

const TOP = 18, FOOT = 20; // above the bars: what was answered; below: which step is which

export function stepAt(canvas, event, q) {
  const { left, width } = canvas.getBoundingClientRect();
  return Math.max(0, Math.min(q.length - 1, Math.floor(((event.clientX - left) / width) * q.length)));
}

export function drawTimeline(canvas, q, cursor, low, high, colours, about) {
  const { context, width, height } = pen(canvas);
  if (!q) return;
  const ink = style("--ink"), soft = style("--soft"), strong = style("--strong");
  const each = width / q.length, tall = height - TOP - FOOT, x = (t) => t * each;
  context.fillStyle = style("--hover");
  context.fillRect(0, TOP, width, tall);
  for (let t = 0; q.timeline && t < q.length; t++) {
    let y = TOP + tall;
    q.timeline[t].forEach((share, k) => {
      context.fillStyle = colours[k];
      context.fillRect(x(t), y - share * tall, Math.ceil(each), share * tall + 0.5);
      y -= share * tall;
    });
  }
  numbers(context, q, each, tall, about);
  for (const [start, end, option] of q.answers) {
    context.fillStyle = option < 0 ? soft : colours[option];
    context.fillRect(x(start) + 0.5, TOP - 8, Math.max((end - start) * each - 1, 2), 5);
  }
  if (low < high) {
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.strokeRect(x(low) + 1, TOP - 1, (high + 1 - low) * each - 2, tall + 2);
    context.fillStyle = "rgb(255 255 255 / 22%)";
    context.fillRect(x(low), TOP, (high + 1 - low) * each, tall);
  }
  const middle = x(q.step) + each / 2;
  context.fillStyle = strong;
  context.beginPath();
  context.moveTo(middle, TOP + tall + 2);
  context.lineTo(middle - 6, TOP + tall + 12);
  context.lineTo(middle + 6, TOP + tall + 12);
  context.fill();
  context.strokeStyle = ink;
  context.lineWidth = 2;
  context.strokeRect(x(cursor) + 0.5, TOP - 2, Math.max(each - 1, 2), tall + 4);
  context.fillStyle = soft;
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "bottom";
  for (const [text, side, place] of [["0", "left", 0], [String(q.length - 1), "right", width]]) {
    if (Math.abs(middle - place) < 24) continue;
    context.textAlign = side;
    context.fillText(text, place, height);
  }
}

const ROW = 16; // pixels of an action group

// How much of each action group is copied at each step: orange where its weight is among the low ones, blue the high.
export function drawGroups(canvas, q, cursor) {
  canvas.hidden = !q?.groups?.length;
  if (canvas.hidden) return;
  canvas.style.height = `${q.groups.length * ROW}px`;
  const { context, width, height } = pen(canvas), each = width / q.length;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  q.groups.forEach(([name, ranks], g) => {
    ranks.forEach((rank, t) => {
      context.globalAlpha = Math.abs(2 * rank - 1);
      context.fillStyle = rank < 0.5 ? NAMED.red : NAMED.blue;
      const x = Math.round(t * each);
      context.fillRect(x, g * ROW, Math.round((t + 1) * each) - x, ROW - 2);
    });
    context.globalAlpha = 1;
    context.fillStyle = style("--ink");
    context.fillText(name, 4, g * ROW + ROW / 2);
  });
  context.strokeStyle = style("--ink");
  context.lineWidth = 2;
  context.strokeRect(cursor * each + 0.5, 0, Math.max(each - 1, 2), height);
}

// The key of each stretch's likeliest option, in its middle: colours alone tell not everybody everything.
function numbers(context, q, each, tall, about) {
  if (!q.timeline) return;
  const best = q.timeline.map((shares) => shares.indexOf(Math.max(...shares)));
  context.font = "700 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let from = 0; from < q.length; ) {
    let to = from;
    while (to < q.length && best[to] === best[from]) to++;
    if ((to - from) * each > 18) {
      const x = ((from + to) / 2) * each, y = TOP + tall - 11;
      context.fillStyle = "rgb(255 255 255 / 88%)";
      context.beginPath();
      context.arc(x, y, 8.5, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = "#1d2126";
      context.fillText(about.options[best[from]].key ?? "", x, y + 0.5);
    }
    from = to;
  }
}
