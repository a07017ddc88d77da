// Pictures of steps: fetched before they are looked at, a few at a time so that answers never wait behind them.
const AT_ONCE = 2, AROUND = 4, KEPT = 2000, LATER = 150;

export class Pictures {
  constructor(arrived) {
    this.arrived = arrived;
    this.here = new Map();
    this.wanted = [];
    this.running = 0;
  }

  get(trajectory, step) {
    return this.here.get(`${trajectory}/${step}`);
  }

  // First the step that is asked about and those around it, then those of the next questions, then the rest. Without a
  // question nothing is fetched any more.
  want(question, next) {
    this.wanted = [];
    if (!question) return;
    const order = [];
    const near = (n, t, length) => {
      order.push([n, t]);
      for (let d = 1; d <= AROUND; d++) for (const s of [t - d, t + d]) if (s >= 0 && s < length) order.push([n, s]);
    };
    near(question.trajectory, question.step, question.length);
    for (const [n, t] of next) order.push([n, t]);
    for (let t = 0; t < question.length; t++) order.push([question.trajectory, t]);
    this.wanted = order.filter(([n, t]) => !this.get(n, t));
    while (this.running < AT_ONCE && this.wanted.length) this.#work();
  }

  async #work() {
    this.running++;
    while (this.wanted.length) {
      const [n, t] = this.wanted.shift();
      if (this.get(n, t)) continue;
      try {
        const reply = await fetch(`frames/${n}/${t}.png`);
        if (reply.status === 200) {
          this.here.set(`${n}/${t}`, await createImageBitmap(await reply.blob()));
          if (this.here.size > KEPT) this.here.delete(this.here.keys().next().value);
          this.arrived();
        } else if (reply.status === 204) {
          this.wanted.splice(Math.min(4, this.wanted.length), 0, [n, t]); // being drawn: look again soon
          await new Promise((resolve) => setTimeout(resolve, LATER));
        }
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 1000)); // the server is away
      }
    }
    this.running--;
  }
}
