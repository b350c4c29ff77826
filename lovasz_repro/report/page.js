"use strict";
// Tables: a button in every heading sorts by its column; `data-order` holds what to sort by.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (row) => row.cells[column].dataset.order;
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [order(a), order(b)];
        const difference = Number(x) - Number(y);
        return Number.isNaN(difference) ? x.localeCompare(y) : difference;
      });
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
// Predictions: the slider moves the edge between two losses.
for (const compare of document.querySelectorAll(".compare")) {
  compare.querySelector("input").addEventListener("input", (event) => {
    compare.style.setProperty("--split", `${event.target.value}%`);
  });
}
