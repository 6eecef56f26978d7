//! A report as one web page: no network, no script, readable on paper.

mod bars;
mod quantization;
mod roofline;
mod stack;

pub use quantization::quantization_page;

use super::{DeviceReport, Report, Suite, Table, tables};
use std::fmt::Write as _;

/// The page could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a figure of the page cannot be drawn ({0})")]
pub struct PageError(String);

/// Everything is in the file; fonts are the reader's own.
const STYLE: &str = include_str!("page.css");

/// The page of a report.
///
/// # Errors
///
/// If a figure cannot be drawn.
pub fn page(report: &Report) -> Result<String, PageError> {
    let mut body = String::new();
    heading(&mut body, report);
    for device in &report.devices {
        section(&mut body, device).map_err(PageError)?;
    }
    Ok(document("qvgen bench", &body))
}

/// A whole page of `body`.
fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escaped(title)
    )
}

/// Text that no browser takes for markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// Adds a line; writing to a string cannot fail.
fn add(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

fn heading(page: &mut String, report: &Report) {
    let machine = &report.machine;
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    add(page, "<h1>qvgen bench</h1>");
    let line = format!(
        "{} {}, {cpu}, {} threads; qvgen {}, kernels {}, {} UTC",
        machine.os,
        machine.arch,
        machine.threads,
        report.program_version,
        report.kernels_digest,
        date(report.created_unix_seconds)
    );
    add(page, &format!("<p class=\"facts\">{}</p>", escaped(&line)));
    add(
        page,
        "<p>Every entry was compared with the plain-Rust twin of its kernel before and after it was \
         timed; what differed has no number. Ceilings were measured by micro-kernels in the same \
         run, and a fraction of the ceiling is the least possible time at these rates over the \
         time. Ratios hold for one device; ratios between devices are not made.</p>",
    );
}

/// `2026-11-21 15:04` (days to civil date after Howard Hinnant).
fn date(unix_seconds: u64) -> String {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", rest / 3600, rest / 60 % 60)
}

fn section(page: &mut String, device: &DeviceReport) -> Result<(), String> {
    add(page, &format!("<h2>{}</h2>", escaped(&device.title())));
    let facts = format!(
        "{}; {}; tier {}; time: {}",
        device.driver,
        device.kind,
        device.tier,
        device.time_source.name()
    );
    add(page, &format!("<p class=\"facts\">{}</p>", escaped(&facts)));
    if device.is_software {
        let text = "A processor does the work: these numbers say nothing about a GPU.";
        add(page, &format!("<p class=\"warning\">{text}</p>"));
    }
    let checksum = &device.checksum;
    let (class, verdict) = if checksum.is_right {
        ("facts", "as on every conforming device")
    } else {
        ("warning", "NOT what every conforming device gets")
    };
    let line = format!("integer checksum {}: {verdict}", checksum.actual);
    add(page, &format!("<p class=\"{class}\">{}</p>", escaped(&line)));
    for drift in device.conditions.drift.iter().filter(|drift| drift.is_large()) {
        let line = format!(
            "The device's f32 rate changed by {:+.0} % during {}: throttling, or other work.",
            100.0 * drift.change(),
            drift.suite
        );
        add(page, &format!("<p class=\"warning\">{}</p>", escaped(&line)));
    }
    for figure in figures(device)? {
        add(page, &format!("<figure>{}</figure>", without_declaration(&figure)));
    }
    tables(device).iter().for_each(|table| add_table(page, table));
    Ok(())
}

fn figures(device: &DeviceReport) -> Result<Vec<String>, String> {
    let mut figures: Vec<String> = roofline::figure(device).transpose()?.into_iter().collect();
    figures.extend(bars::figures(device)?);
    for suite in Suite::ALL {
        figures.extend(stack::figure(device, suite).transpose()?);
    }
    Ok(figures)
}

/// An SVG inside a page has no XML declaration.
fn without_declaration(svg: &str) -> &str {
    svg.find("<svg").map_or(svg, |start| &svg[start..])
}

fn add_table(page: &mut String, table: &Table) {
    add(page, &format!("<h3>{}</h3>\n<table>", escaped(&table.title)));
    let cells = |cells: &[String], tag: &str| {
        cells.iter().enumerate().fold(String::new(), |mut row, (i, cell)| {
            let is_number = table.rows.iter().all(|row| {
                row.get(i).is_none_or(|cell| {
                    cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit())
                })
            });
            let class = if is_number { " class=\"number\"" } else { "" };
            let _ = write!(row, "<{tag}{class}>{}</{tag}>", escaped(cell));
            row
        })
    };
    add(page, &format!("<tr>{}</tr>", cells(&table.header, "th")));
    for row in &table.rows {
        add(page, &format!("<tr>{}</tr>", cells(row, "td")));
    }
    add(page, "</table>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_stays_text() {
        assert_eq!(escaped("<b>&\"'\u{1b}"), "&lt;b&gt;&amp;&quot;&#39;");
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00");
        assert_eq!(date(1_795_273_440), "2026-11-21 15:04");
    }
}
