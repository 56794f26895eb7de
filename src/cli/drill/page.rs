//! The report as a page: one file that needs no other, a chart per fault.

use std::fmt::{self, Write as _};

use super::report::{Findings, Report, time};

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write(report, &mut page);
    page
}

fn write(report: &Report, page: &mut String) -> fmt::Result {
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>pglagoon drill</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>pglagoon drill: {}</h1>\n\
         <p>{}; {} clients, {} s before, during and after each fault; pglagoon {}</p>\n",
        verdict(report.passed),
        escape(&report.cluster),
        report.clients,
        report.seconds_per_phase,
        escape(report.pglagoon),
    )?;
    overview(report, page)?;
    report.faults.iter().try_for_each(|findings| section(findings, page))?;
    page.write_str("</body></html>\n")
}

fn overview(report: &Report, page: &mut String) -> fmt::Result {
    page.write_str(
        "<table><tr><th>fault<th><th>errors<th>longest pause<th>first write after<th>p99 before / during / after\
         <th>stale reads<th>lost acknowledged writes</tr>\n",
    )?;
    for findings in &report.faults {
        let p99 = findings.phases().map(|(_, latency)| time(latency.p99_ms)).join(" / ");
        writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{p99}<td>{} of {}<td>{} of {}</tr>",
            escape(&findings.fault),
            verdict(findings.passed),
            escape(&findings.error_line()),
            time(Some(findings.longest_pause_ms)),
            time(findings.first_write_ms),
            findings.stale_reads,
            findings.reads,
            findings.lost_acknowledged_writes,
            findings.acknowledged_writes,
        )?;
    }
    page.write_str("</table>\n")
}

fn section(findings: &Findings, page: &mut String) -> fmt::Result {
    let (name, about) = (escape(&findings.fault), escape(&findings.about));
    writeln!(page, "<h2>{name}: {}</h2>\n<p>{about}</p>", verdict(findings.passed))?;
    chart(findings, page)?;
    page.write_str("<ul>\n")?;
    for failure in &findings.failures {
        writeln!(page, "<li class=\"bad\">{}", escape(failure))?;
    }
    for step in &findings.steps {
        writeln!(page, "<li>{}: {}", time(Some(step.ended_ms)), escape(&step.step))?;
    }
    for (code, errors) in &findings.errors {
        let (code, text) = (escape(code), escape(&errors.text));
        writeln!(page, "<li>{} x {code}, {} allowed: {text}", errors.count, errors.allowed)?;
    }
    for (phase, latency) in findings.phases() {
        let (p50, p99) = (time(latency.p50_ms), time(latency.p99_ms));
        writeln!(page, "<li>{phase}: {} operations, p50 {p50}, p99 {p99}", latency.operations)?;
    }
    writeln!(
        page,
        "<li>{} connections lost, {} writes of unknown fate</ul>",
        findings.connections_lost, findings.unknown_writes
    )
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 160.0;
/// Below the bars: the times.
const FOOT: f64 = 20.0;

/// Bars up: operations that ended well. Marks on top: errors. The line: the slowest success of each slice, on a scale of its
/// own by its logarithm, because a pause and a query differ by three powers of ten.
fn chart(findings: &Findings, page: &mut String) -> fmt::Result {
    let slices = &findings.timeline;
    let step = WIDTH / slices.len().max(1) as f64;
    let width_ms = slices.get(1).map_or(1.0, |slice| slice.at_ms);
    let x = |milliseconds: f64| milliseconds / width_ms * step;
    let most = slices.iter().map(|slice| slice.done).max().unwrap_or_default().max(1) as f64;
    let slowest = slices.iter().map(|slice| slice.slowest_ms).fold(10.0, f64::max);
    let (from, to) = (x(findings.broken_ms), x(findings.repaired_ms));
    let total = HEIGHT + FOOT;
    write!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {total}\" role=\"img\" aria-label=\"timeline\">\n\
         <rect class=\"fault\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\"/>\n",
        (to - from).max(1.0)
    )?;
    let mut line = String::new();
    for (place, slice) in slices.iter().enumerate() {
        let left = place as f64 * step;
        let height = slice.done as f64 / most * HEIGHT * 0.9;
        if slice.done > 0 {
            let top = HEIGHT - height;
            writeln!(
                page,
                "<rect class=\"done\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{step:.2}\" height=\"{height:.1}\"/>"
            )?;
            let level = (1.0 + slice.slowest_ms).ln() / (1.0 + slowest).ln() * HEIGHT * 0.9;
            write!(line, "{:.1},{:.1} ", left + step / 2.0, HEIGHT - level)?;
        }
        if slice.failed > 0 {
            writeln!(
                page,
                "<rect class=\"failed\" x=\"{left:.1}\" y=\"0\" width=\"{:.2}\" height=\"12\"><title>{} errors</title></rect>",
                step.max(2.0),
                slice.failed
            )?;
        }
    }
    writeln!(page, "<polyline class=\"slowest\" points=\"{}\"/>", line.trim_end())?;
    let end = slices.len() as f64 * width_ms;
    // About ten marks, at whole seconds.
    let every = (end / 1e4).ceil().max(1.0) * 1e3;
    let mut mark = 0.0;
    while mark < end {
        writeln!(page, "<text x=\"{:.1}\" y=\"{:.1}\">{:.0} s</text>", x(mark), total - 5.0, mark / 1e3)?;
        mark += every;
    }
    writeln!(
        page,
        "</svg>\n<p class=\"legend\">Green: operations that succeeded, up to {most:.0} in {width_ms:.0} ms. Line: the slowest \
         of them (logarithmic), up to {}. Red: errors. Grey: from the fault to its repair.</p>",
        time(Some(slowest))
    )
}

fn verdict(passed: bool) -> &'static str {
    match passed {
        true => "<b class=\"good\">ok</b>",
        false => "<b class=\"bad\">failed</b>",
    }
}

/// Text that comes from outside: a server's messages, an operator's commands.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse;font-size:13px}th,td{border-bottom:1px solid #ccc;padding:.3em .6em;text-align:left;\
vertical-align:top}svg{width:100%;border-bottom:1px solid #ccc}.good{color:#1a7f37}.bad{color:#c62828}\
.fault{fill:#e4e4e8}.done{fill:#6abf7b}.failed{fill:#c62828}.slowest{fill:none;stroke:#34508c;stroke-width:1.2}\
text{font-size:11px;fill:#555}.legend{font-size:12px;color:#555;margin-top:0}";

#[cfg(test)]
mod tests {
    use super::super::report::tests::sample;
    use super::*;

    fn report() -> Report {
        Report {
            pglagoon: "0.1.0",
            cluster: "<staging>".to_owned(),
            clients: 2,
            seconds_per_phase: 1,
            passed: true,
            faults: vec![sample()],
        }
    }

    #[test]
    fn the_page_stands_alone_and_escapes_what_comes_from_outside() {
        let page = page(&report());
        for text in
            ["a &lt;fault&gt;", "&quot;breaks&quot; &amp; mends", "40001 &lt;it&gt;", "&lt;staging&gt;"]
        {
            assert!(page.contains(text), "{text} is not in\n{page}");
        }
        for text in ["http:", "https:", "<script", "src=", "href=", "a <fault>", "<it>", "NaN", "inf"] {
            assert!(!page.contains(text), "{text} is in\n{page}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn the_json_has_the_same() {
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&report()).unwrap()).unwrap();
        assert_eq!(json["cluster"], "<staging>");
        let fault = &json["faults"][0];
        assert_eq!(
            (&fault["errors"]["40001"]["allowed"], &fault["first_write_ms"]),
            (&1.into(), &300.0.into())
        );
        assert!(fault["timeline"].as_array().is_some_and(|slices| slices.len() > 100));
    }
}
