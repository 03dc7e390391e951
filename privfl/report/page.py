"""The report of a run: one HTML page that needs no network and no script, on a phone or on paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Final

import privfl
from privfl.dp import EpsilonReport, format_epsilon
from privfl.experiment.config import Config
from privfl.experiment.placement import placement_of
from privfl.experiment.schemes import describe
from privfl.files import atomic_write, existing_parent
from privfl.fl.classes import constant_warning
from privfl.fl.payment import MAX_EACH
from privfl.report.canvas import BLUE, GRAY, ORANGE, RED, new_figure, style, svg, whole_numbers
from privfl.report.run import RunRecord, modes_in_words

Facts = Iterable[tuple[str, str]]

_FIRST = ("accuracy", "balanced_accuracy", "loss", "auc", "r2", "mae", "mse")
"""The metrics that the head of the page may show."""

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1f2933;--soft:#5b6570;--line:#d9dee4;--card:#f6f8fa;--accent:#2364aa;
--page:#fff;--note:#fff7e6;--edge:#ecd9a8}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:0 auto}
body{padding:1.2rem}
h1{font-size:1.7rem;line-height:1.2;margin:.3rem 0}h2{font-size:1.2rem;margin:2rem 0 .6rem}
.lead{color:var(--soft);margin:0 0 1rem}.scroll{overflow-x:auto}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.8rem;margin:1rem 0}
.figure{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.figure b{display:block;font-size:1.35rem}.figure span{color:var(--soft);font-size:.85rem}
.card{border:1px solid var(--line);border-left:.35rem solid var(--accent);border-radius:.5rem;padding:.4rem 1rem 1rem}
.note{background:var(--note);border:1px solid var(--edge);border-radius:.5rem;padding:.6rem .9rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.facts th{width:11rem}td{overflow-wrap:anywhere}.scroll td{overflow-wrap:normal}
.plots{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}.plot{flex:1 1 20rem;margin:0}
figcaption{color:var(--soft);font-size:.85rem}
code,pre{font:0.85rem/1.45 ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem;white-space:pre-wrap}
svg{max-width:100%;height:auto}footer{color:var(--soft);font-size:.85rem;margin-top:2rem}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#a3adb8;--line:#39434e;--card:#1d242c;
--accent:#6aa5e0;--page:#14191f;--note:#2e2819;--edge:#5d5029}svg{filter:invert(.92) hue-rotate(180deg)}}
@media(max-width:30rem){.facts th{width:7.5rem}}
@page{margin:15mm}
@media print{:root{color-scheme:light}body{font-size:10pt;max-width:none;padding:1px}h2,h3{break-after:avoid}
.card p,.figure,.plot,.note,svg,tr{break-inside:avoid}.scroll{overflow:visible}section{margin-top:1.2rem}
.card{-webkit-box-decoration-break:clone;box-decoration-break:clone}thead{display:table-header-group}
pre{font-size:7pt;columns:3;column-gap:1rem;white-space:pre-wrap}footer{break-before:avoid;margin-top:1rem}}
"""


def write_report(run: RunRecord, path: Path, *, public: bool = False) -> Path:
    """Write the page, and return its path.

    Args:
        run: The run.
        path: The file; its folder exists.
        public: Leave out what an outsider must not see for its epsilon to hold (cohorts, survivors, dropouts, bytes and
            seconds of a round), and the figures of all other observers.
    """
    atomic_write(existing_parent(path), render(run, public=public).encode(), shared=True)
    return path


def render(run: RunRecord, *, public: bool = False) -> str:
    """Return the page as text. Raises `MissingExtra` without matplotlib.

    Args:
        run: The run.
        public: As in `write_report`.
    """
    if public:
        run = replace(run, sites={})  # they name those who took part
    parts = [
        _head(run),
        _note(run, public=public),
        _privacy(run, public=public),
        _section("How it went", _curves(run) + _rounds(run, public=public)),
        _metrics(run),
        _caveats(run, public=public),
        _section("What was trained on what", _facts(_setup(run))),
        _section("Who saw what", _facts(_sees(run))),
        _section("The models' lineage", _lineage(run)),
        _section("Versions", _versions(run)),
        _section("How to reproduce it", _reproduce(run)),
    ]
    title = escape(f"privfl: {run.config.name}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Written by privfl {escape(privfl.__version__)}.</footer></body></html>\n"
    )


def _caveats(run: RunRecord, *, public: bool) -> str:
    """The caveats of all rounds, each once; for outsiders those of the evaluation, which depend on no cohort."""
    outside = public and bool(run.epsilons)
    found = dict.fromkeys(
        caveat for report in run.reports for caveat in (report.evaluation_caveats if outside else report.caveats)
    )
    if not found:
        return ""
    return _section("Caveats", "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>")


def _metrics(run: RunRecord) -> str:
    """Every metric of the last evaluation, with the confusion matrix where it was counted."""
    last = next((report for report in reversed(run.reports) if report.evaluation), None)
    if last is None:
        return ""
    body = _facts((name.replace("_", " "), f"{value:.6g}") for name, value in last.evaluation.items())
    if warning := constant_warning(last.evaluation):
        body = f"<p><b>{escape(warning)}</b></p>" + body
    if last.confusion:
        head = ("true class", *(f"predicted {at}" for at in range(len(last.confusion))))
        rows = [(str(at), *map(str, row)) for at, row in enumerate(last.confusion)]
        body += "<h3>Confusion matrix</h3>" + _table(head, rows, numbers=range(1, len(head)))
    return _section(f"Metrics after round {last.round}", body)


def _sees(run: RunRecord) -> Facts:
    if "sum" in run.objects:
        yield "everyone", f"what {run.objects['sum']}, a sum that a program gave, shows them"
        return
    for observer, words in describe(run.config.sum.scheme).sees.items():
        yield observer.replace("_", " "), words
    if any("in-app" in modes for modes in run.sites.values()):
        yield "author of the app", "the keys and the data of each site that ran in-app"


def _head(run: RunRecord) -> str:
    config, last = run.config, run.reports[-1]
    shown = next((r.evaluation for r in reversed(run.reports) if r.evaluation), {})
    first = [(name, value) for name, value in shown.items() if name in _FIRST][:3]
    figures = [(name.replace("_", " "), f"{value:.4g}") for name, value in first]
    if "outsider" in run.epsilons:
        report = run.epsilons["outsider"]
        figures.append((f"{report.label} at delta {report.delta:g}, outsider", format_epsilon(report.epsilon, 2)))
    else:
        figures.append(("epsilon", "no noise, no claim"))
    figures.append(("rounds", str(last.round)))
    cells = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in figures
    )
    data = f"{_data(run)}, federated over {_clients(run)}"
    lead = f"{data}, summed by the {run.objects.get('sum', config.sum.scheme)} sum"
    return f'<h1>{escape(config.name)}</h1><p class="lead">{escape(lead)}</p><div class="figures">{cells}</div>'


def _data(run: RunRecord) -> str:
    settings = run.config.data
    return run.objects.get("data", Path(settings.table or settings.name).name)


def _clients(run: RunRecord) -> str:
    data = run.config.data
    if "data" in run.objects:
        return f"{run.clients} clients"
    return f"{run.clients} clients ({data.dealing})"


def _note(run: RunRecord, *, public: bool) -> str:
    if not run.epsilons or public:
        return ""
    return (
        '<p class="note">For those inside the federation: this page shows who stayed in which round and how much was '
        "sent. An outsider's epsilon may assume that nobody outside knows that; publish a page that was written with "
        "<code>--public</code> instead.</p>"
    )


def _privacy(run: RunRecord, *, public: bool) -> str:
    settings = run.config.privacy
    if not run.epsilons:
        return _section(
            "Privacy card",
            '<div class="card"><p>No noise was added, and no epsilon is claimed. What the sum hides is listed under '
            "<em>Who saw what</em>; what the models reveal about the clients is not bounded.</p></div>",
        )
    shown = [run.epsilons["outsider"]] if public else list(run.epsilons.values())
    first = shown[0]
    rows = [
        ("unit", f"a {first.unit.level}{', with all its data' if first.unit.level == 'client' else ''}"),
        ("adjacency", run.config.privacy.adjacency),
        ("sampling", run.epsilons["outsider"].sampling),
        ("mechanism", f"{placement_of(run.config)} noise, {settings.noise}: integers added inside the sum's ring"),
        ("clip norm", f"{settings.clip_norm:g}" if settings.clip_norm is not None else "none"),
        ("noise multiplier", f"{settings.noise_multiplier:g}" if settings.noise_multiplier is not None else "none"),
        ("budget", "none" if settings.epsilon is None else f"epsilon {settings.epsilon:g} at delta {settings.delta:g}"),
        *([("noisy answers", run.answers.describe())] if run.answers else []),
        ("ledger's last hash", run.ledger or ""),
    ]
    if public:
        rows = rows[:-1]  # of the private ledger; `Ledger.publish` writes the one that may be shown
    return _section("Privacy card", f'<div class="card">{_promises(shown)}{_facts(rows)}</div>')


def _promises(shown: Sequence[EpsilonReport]) -> str:
    """One paragraph for each observer. Details that hold for all of them come once, at the end."""
    details = [_details(report) for report in shown]
    common = [text for text in details[0] if len(shown) > 1 and all(text in other for other in details)]
    body = ""
    for report, own in zip(shown, details, strict=True):
        rest = "; ".join(text for text in own if text not in common)
        small = f" <small>({escape(rest)})</small>" if rest else ""
        head = escape(f"{report.observer.replace('_', ' ')}: {report}.")
        body += f"<p><b>{head}</b> {escape(report.sentence)}{small}</p>"
    return body + (f"<p><small>For every observer: {escape('; '.join(common))}.</small></p>" if common else "")


def _details(report: EpsilonReport) -> list[str]:
    checks = "; ".join(f"{name} {format_epsilon(value)}" for name, value in report.cross_checks.items())
    caveats = [text for text in report.caveats if text not in report.sentence]
    figured = [] if math.isinf(report.epsilon) else [f"by {report.accountant}"]
    return [*caveats, *figured, *([f"cross-checks: {checks}"] if checks else [])]


def _curves(run: RunRecord) -> str:
    measured = "Metrics on the test examples after each round."
    spent = "How far each round moved the model."
    if run.epsilons:
        few = " Beyond round 64 it is computed after some rounds only, and always after the last."
        spent = "Epsilon after each round, against an outsider." + few * (run.reports[-1].round > MAX_EACH)
    figures = ((_quality(run), measured), (_spent(run), spent))
    cells = (f'<figure class="plot">{svg(each)}<figcaption>{text}</figcaption></figure>' for each, text in figures)
    return '<div class="plots">' + "".join(cells) + "</div>"


def _quality(run: RunRecord) -> Any:
    measured = [(r.round, r.evaluation) for r in run.reports if r.evaluation]
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    names = _alike(measured[-1][1]) if measured else []
    for color, line, name in zip((BLUE, ORANGE, GRAY), ("-", "--", ":"), names, strict=False):
        points = [(x, metrics[name]) for x, metrics in measured if name in metrics]
        axes.plot(*zip(*points, strict=True), color=color, linestyle=line, label=name.replace("_", " "))
    style(
        axes, "Quality of the global model", "round", "fraction of test examples" if names == ["accuracy"] else "metric"
    )
    whole_numbers(axes.xaxis)
    if names:
        axes.legend(fontsize=8)
    return figure


def _spent(run: RunRecord) -> Any:
    settings = run.config.privacy
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    spent = [(r.round, r.epsilon) for r in run.reports if r.epsilon is not None]
    if "outsider" in run.epsilons and spent and spent[-1][0] < run.reports[-1].round:
        spent.append((run.reports[-1].round, run.epsilons["outsider"].epsilon))
    if spent:
        axes.plot(*zip(*spent, strict=True), color=BLUE, label="spent")
        if settings.epsilon is not None:
            axes.axhline(settings.epsilon, color=RED, linestyle="--", label="budget")
        axes.set_ylim(bottom=0)
        label = "epsilon" if run.reports[-1].secure else "epsilon if the noise were secure"
        style(axes, "Privacy spent, outsider", "round", f"{label} at delta {settings.delta:g}")
        axes.legend(fontsize=8)
    else:
        axes.plot([r.round for r in run.reports], [r.update_norm for r in run.reports], color=BLUE)
        style(axes, "Size of the mean update", "round", "l2 norm")
    whole_numbers(axes.xaxis)
    return figure


def _alike(metrics: Mapping[str, float]) -> list[str]:
    """Metrics that share one scale: shares together, or an error alone; one of two that are the same."""
    shares = [name for name in ("accuracy", "mean_client_accuracy", "auc", "r2") if name in metrics]
    if metrics.get("mean_client_accuracy") == metrics.get("accuracy"):
        shares = [name for name in shares if name != "mean_client_accuracy"]
    return shares or [name for name in ("mse", "loss") if name in metrics][:1]


def _rounds(run: RunRecord, *, public: bool) -> str:
    if public and run.epsilons:
        return ""
    late = any(r.virtual_time is not None for r in run.reports)
    head = ("round", "status", "cohort", "survivors", "dropped out", "bytes up", "bytes down", "seconds")
    rows = [
        (
            str(r.round), r.status, str(r.cohort), str(r.survivors), ", ".join(map(str, r.dropouts)) or "-",
            f"{r.bytes_up:,}", f"{r.bytes_down:,}", f"{r.seconds:.2f}",
            *((f"{r.virtual_time or 0.0:.2f}", ", ".join(map(str, r.ages))) if late else ()),
        )
        for r in run.reports
    ]  # fmt: skip
    total = (
        "all", "", "", "", str(sum(len(r.dropouts) for r in run.reports)), f"{sum(r.bytes_up for r in run.reports):,}",
        f"{sum(r.bytes_down for r in run.reports):,}", f"{sum(r.seconds for r in run.reports):.2f}",
        *(("", "") if late else ()),
    )  # fmt: skip
    arrivals = ("virtual seconds", "ages in rounds") if late else ()
    return _table((*head, *arrivals), [*rows, total], numbers=(2, 3, 5, 6, 7, *((8,) if late else ())))


def _setup(run: RunRecord) -> Facts:
    config = run.config
    client = config.client
    work = f"{client.steps} steps" if client.steps is not None else f"{client.epochs} epochs"
    cohort = config.cohort
    dealt = "given by a program" if "data" in run.objects else config.data.dealing
    yield "data", f"{_data(run)}, {dealt}, standardized: {config.data.standardize}"
    yield "clients", _clients(run)
    if run.sites:
        yield "mode, signed by each site", modes_in_words(run.sites)
    kind = config.model.kind if "train" not in run.objects else f"given by a program ({run.objects['train']})"
    yield "model", f"{kind}, {run.parameters} parameters"
    yield (
        "local training",
        f"{work} of batch {client.batch_size or 'all examples'}, learning rate {client.learning_rate:g}",
    )
    yield "server optimizer", run.objects.get("optimizer", config.server.optimizer)
    sizes = (("probability", cohort.probability), ("size", cohort.size), ("cap", cohort.cap))
    yield (
        "cohort",
        ", ".join(
            [
                run.objects.get("sampler", _sampling(config)),
                *(f"{name} {value:g}" for name, value in sizes if value is not None),
            ]
        ),
    )
    bits = " and then ".join(str(bits) for bits in dict.fromkeys(report.bits for report in run.reports))
    yield "sum", f"{run.objects.get('sum', config.sum.scheme)}, a ring of {bits} bits"
    yield "seed", str(config.seed)


def _sampling(config: Config) -> str:
    size = config.buffer.size
    return config.cohort.sampling if size is None else f"asynchronous: {size} arrivals fill the buffer of a round"


def _lineage(run: RunRecord) -> str:
    rows = [(str(round), model, parent or "-") for round, model, parent in run.lineage]
    return _table(("round", "model", "parent"), [(a, b[:24], c[:24]) for a, b, c in rows], numbers=(0,), code=(1, 2))


def _versions(run: RunRecord) -> str:
    """Those that the rounds were made with, not those of today."""
    if not run.origins:
        return "<p>They were not noted when this run was made.</p>"
    if len(run.origins) == 1:
        return _facts(run.origins[0].versions.items())
    return "".join(f"<h3>from round {o.from_round}</h3>{_facts(o.versions.items())}" for o in run.origins)


def _reproduce(run: RunRecord) -> str:
    secure = run.config.privacy.placement != "none" and run.config.privacy.noise == "secure"
    text = (
        "The noise comes from the operating system and is another one each time: the models will differ, and so "
        "will their accuracy; epsilon will not."
        if secure
        else "The models come out the same to the last bit, with every number of workers."
    )
    if run.objects:
        parts = " and ".join(sorted(run.objects))
        return (
            f"<p>A program of its own gave this run its {parts}: run that program again, with the "
            f"versions above. {escape(text)} These were its settings:</p><pre>{escape(run.toml)}</pre>"
        )
    return (
        f"<p>Save this as <code>run.toml</code> and type <code>privfl run run.toml</code>, with the "
        f"versions above. {escape(text)}</p>"
        f"<pre>{escape(run.toml)}</pre>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _facts(rows: Facts) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{cells}</table>'


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), code: Sequence[int] = ()
) -> str:
    def cell(tag: str, at: int, text: str) -> str:
        inner = f"<code>{escape(text)}</code>" if at in code and tag == "td" else escape(text)
        return f"<{tag}{' class=n' if at in numbers else ''}>{inner}</{tag}>"

    top = "".join(cell("th", at, text) for at, text in enumerate(head))
    lines = ("".join(cell("td", at, text) for at, text in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
