"use strict";
// Sorting and searching of tables, and copying.  Without scripts the page says all it has to say.

for (const bar of document.querySelectorAll(".controls")) {
  const table = document.getElementById(bar.dataset.for);
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const search = bar.querySelector("input");
  const pick = bar.querySelector("select");
  const count = bar.querySelector("output");

  const filter = () => {
    const words = (search ? search.value : "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits || Boolean(pick && pick.value && row.dataset.state !== pick.value);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} ${count.dataset.noun}${rows.length === 1 ? "" : "s"}`;
  };

  // What a cell says to a program: its last number, the width of its bar, or its words.
  const key = (row, at) => {
    const cell = row.cells[at];
    const number = [...cell.querySelectorAll("data")].pop();
    if (number) return number.value;
    const bar = cell.querySelector(".bar > i");
    return bar ? String(parseFloat(bar.style.width)) : cell.textContent.trim();
  };
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    const numeric = a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y);
    return numeric ? x - y : a.localeCompare(b, "en", { numeric: true });
  };
  const sort = (head) => {
    const at = head.cellIndex;
    const old = head.getAttribute("aria-sort");
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const order = !old ? first : old === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => sign * compare(key(a, at), key(b, at)));
    body.append(...rows);
  };

  for (const head of [...table.tHead.rows[0].cells]) {
    if (head.classList.contains("drawing")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  }
  if (search) search.addEventListener("input", filter);
  if (pick) pick.addEventListener("change", filter);
  filter();
  bar.hidden = false;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      button.textContent = "Selected";
    }
  });
}
