// Figures for people.

export const count = (n) => (n === null || n === undefined ? "-" : n.toLocaleString("en"));

export function time(us) {
  if (us === null || us === undefined) return "-";
  if (us < 1e3) return `${Math.round(us)} us`;
  if (us < 1e6) return `${(us / 1e3).toPrecision(us < 1e5 ? 2 : 3)} ms`;
  const s = us / 1e6;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function bytes(n) {
  if (n === null || n === undefined) return "-";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) [n, at] = [n / 1024, at + 1];
  return `${at && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

export function left(range) {
  if (!range) return "not known yet";
  const [from, to] = range.map(time);
  return from === to ? from : `${from} to ${to}`;
}

export const ago = (at, now) => `${time(Math.max(0, now - at))} ago`;

export function share(part, all) {
  if (!all) return "-";
  const percent = (100 * part) / all;
  return percent > 0 && percent < 1 ? "<1 %" : `${Math.round(percent)} %`;
}

// A state is a word with a mark, and a colour for those who see it.
const MARKS = {
  succeeded: ["✓", "good"], failed: ["✗", "bad"], cancelled: ["−", "soft"], aborted: ["−", "soft"],
  running: ["▶", ""], busy: ["▶", ""], idle: ["○", "soft"], away: ["?", "warn"],
  stuck: ["!", "bad"], leaving: ["←", "soft"], restarting: ["↻", "warn"], lost: ["✗", "bad"],
};
export function state(word) {
  const [mark, kind] = MARKS[word] || ["·", ""];
  return { text: `${mark} ${word}`, kind };
}
