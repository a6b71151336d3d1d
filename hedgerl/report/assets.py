"""Style sheet and script of the page."""

from __future__ import annotations

from hedgerl.report.drawing import COLOURS


def _variables(scheme: int) -> str:
    return "".join(f"--{role}:{pair[scheme]};" for role, pair in COLOURS.items())


_SHEET = """
:root {
  color-scheme:light dark;
  LIGHT;
  --raised:#f6f8fa;
  --link:#0a58ca;
  --good:#0b6b3a;
  --bad:#a1260d;
}
@media (prefers-color-scheme:dark) {
  :root { DARK; --raised:#1b2129; --link:#79b8ff; --good:#5bd08c; --bad:#ff9b85; }
}
@media print {
  :root { color-scheme:light; LIGHT; --raised:#fff; --link:#000; --good:#0b6b3a; --bad:#a1260d; }
}
* { box-sizing:border-box; }
html { -webkit-text-size-adjust:100%; text-size-adjust:100%; }
body {
  margin:0;
  background:var(--paper);
  color:var(--ink);
  font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
}
main,header,footer { max-width:74rem; margin:0 auto; padding:0 1rem; }
header { padding-top:1.5rem; }
footer { padding-bottom:3rem; color:var(--muted); }
h1 { font-size:1.6rem; line-height:1.25; margin:.2rem 0 .6rem; overflow-wrap:anywhere; }
h2 {
  font-size:1.3rem;
  line-height:1.3;
  margin:3rem 0 .4rem;
  padding-top:1rem;
  border-top:2px solid var(--grid);
  overflow-wrap:anywhere;
}
h3 { font-size:1.05rem; margin:1.8rem 0 .4rem; }
p,ul,dl { max-width:46rem; margin:.5rem 0; }
li { margin:.2rem 0; }
a { color:var(--link); }
a:focus-visible,button:focus-visible,summary:focus-visible,.scroll:focus-visible {
  outline:3px solid var(--link);
  outline-offset:2px;
  border-radius:2px;
}
nav ul { list-style:none; padding:0; display:flex; flex-wrap:wrap; gap:.3rem 1.2rem; }
nav a { display:inline-block; padding:.25rem 0; overflow-wrap:anywhere; }
.facts { display:grid; grid-template-columns:max-content 1fr; gap:.1rem 1rem; font-size:.93rem; }
.facts dt { color:var(--muted); }
.facts dd { margin:0; overflow-wrap:anywhere; }
.note {
  border-left:4px solid var(--p1);
  background:var(--raised);
  padding:.5rem .8rem;
  margin:.7rem 0;
  max-width:46rem;
  font-size:.95rem;
  overflow-wrap:anywhere;
}
.scroll { overflow-x:auto; margin:.6rem 0; border:1px solid var(--grid); border-radius:6px; }
table {
  border-collapse:separate;
  border-spacing:0;
  font-size:.9rem;
  font-variant-numeric:tabular-nums;
  width:100%;
}
caption { text-align:left; padding:.5rem .7rem; color:var(--muted); font-size:.9rem; }
th,td {
  padding:.35rem .85rem .35rem .4rem;
  text-align:right;
  white-space:nowrap;
  border-bottom:1px solid var(--grid);
}
tbody tr:last-child>* { border-bottom:0; }
thead th {
  white-space:normal;
  min-width:5.2rem;
  vertical-align:bottom;
  background:var(--raised);
  font-weight:600;
}
thead abbr { text-decoration:underline dotted var(--muted); text-underline-offset:3px; }
th:first-child {
  text-align:left;
  position:sticky;
  left:0;
  background:var(--paper);
  z-index:1;
  box-shadow:1px 0 0 var(--grid);
}
thead th:first-child { background:var(--raised); }
tbody th {
  font-weight:500;
  white-space:normal;
  min-width:8.5rem;
  max-width:15rem;
  overflow-wrap:anywhere;
}
thead th.group { text-align:center; border-left:1px solid var(--grid); }
td.first { border-left:1px solid var(--grid); }
tr.reference>* { background:var(--raised); }
th button { all:unset; cursor:pointer; font-weight:600; }
th button::after { content:" \\2195"; color:var(--muted); }
th[aria-sort=ascending] button::after { content:" \\2191"; color:var(--ink); }
th[aria-sort=descending] button::after { content:" \\2193"; color:var(--ink); }
th button:focus-visible { outline:3px solid var(--link); outline-offset:2px; }
.best { font-weight:700; position:relative; }
.best::after { content:"\\2605"; position:absolute; right:.02rem; }
.se,.interval { color:var(--muted); font-size:.85em; }
.interval { display:block; }
.good { color:var(--good); font-weight:700; }
.bad { color:var(--bad); font-weight:700; }
.number {
  display:inline-block;
  min-width:1.5em;
  padding:0 .25em;
  margin-right:.45em;
  border-radius:.75em;
  text-align:center;
  font-size:.8em;
  font-weight:700;
  color:var(--paper);
}
.charts {
  display:grid;
  grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));
  gap:1.2rem 2rem;
  align-items:start;
  margin:1rem 0;
}
figure { margin:0; min-width:0; max-width:33rem; }
figure h3 { margin-top:.4rem; }
figure svg { display:block; width:100%; height:auto; overflow:visible; }
svg text { font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; }
figcaption { font-size:.88rem; color:var(--muted); margin-top:.3rem; overflow-wrap:anywhere; }
details { margin:.8rem 0; }
summary { cursor:pointer; font-weight:600; padding:.35rem 0; }
pre {
  background:var(--raised);
  border:1px solid var(--grid);
  border-radius:6px;
  padding:.7rem;
  overflow:auto;
  font-size:.82rem;
  max-height:28rem;
}
.glossary dt { font-weight:600; margin-top:.6rem; }
.glossary dd { margin:0 0 0 1rem; }
@media (min-width:48rem) {
  tbody th { min-width:12.5rem; }
}
@media (max-width:30rem) {
  th,td { padding:.35rem .5rem; }
  tbody th { min-width:7rem; max-width:9rem; }
  .facts { grid-template-columns:1fr; }
  .facts dd { margin-bottom:.3rem; }
}
@media print {
  body { font-size:10pt; }
  h2 { break-before:page; }
  figure,tr { break-inside:avoid; }
  .scroll { overflow:visible; border:0; }
  table { font-size:7.5pt; }
  th,td { padding:2pt 3pt; }
  th:first-child { position:static; }
  th button::after { content:""; }
  nav { display:none; }
  .charts { grid-template-columns:1fr 1fr; }
  pre { max-height:none; white-space:pre-wrap; }
}
"""
STYLE = _SHEET.replace("LIGHT;", _variables(0)).replace("DARK;", _variables(1))

# Column heads become buttons that sort; without scripts the tables stand as they are.
SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function(table){
  var heads=table.tHead.rows[table.tHead.rows.length-1].cells,body=table.tBodies[0];
  Array.prototype.forEach.call(heads,function(head,column){
    var button=document.createElement("button");button.type="button";
    while(head.firstChild)button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click",function(){
      var down=head.getAttribute("aria-sort")==="ascending";
      Array.prototype.forEach.call(heads,function(other){other.removeAttribute("aria-sort")});
      head.setAttribute("aria-sort",down?"descending":"ascending");
      Array.prototype.slice.call(body.rows).map(function(row,place){
        var text=row.cells[column].getAttribute("data-v");
        return{row:row,place:place,known:text!=="",number:parseFloat(text)};
      }).sort(function(a,b){
        if(a.known!==b.known)return a.known?-1:1;
        var order=a.known?a.number-b.number:0;
        return(down?-order:order)||a.place-b.place;
      }).forEach(function(each){body.appendChild(each.row)});
    });
  });
});
"""
