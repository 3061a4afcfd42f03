//! A chart of a report: for each row a bar a side, with the spread of its trials.

use std::fmt::Write;

use super::{Report, Role, Row, Side, Spread};
use crate::report::text::number;

const WIDTH: f64 = 760.0;
const LABEL: f64 = 250.0;
const BARS: f64 = 380.0;
const BAR: f64 = 16.0;
const ROW_GAP: f64 = 30.0;
const TOP: f64 = 44.0;
const CURVE: f64 = 150.0;

/// The chart, as an SVG document that needs nothing else. Bars are to scale within a row: rows have units of their own.
pub(crate) fn chart(report: &Report) -> String {
    if report.curve {
        return curves(report);
    }
    let height = TOP + report.rows.iter().map(|row| row.sides.len() as f64 * BAR + ROW_GAP).sum::<f64>() + 10.0;
    let mut svg = begin(report, height);
    let mut y = TOP;
    for row in &report.rows {
        let label = escape(&format!("{} {}, {}", row.id, row.what, row.unit));
        line(&mut svg, &format!(r#"<text x="10" y="{y}" font-weight="bold">{label}</text>"#));
        y += 6.0;
        let most = most(row);
        for side in &row.sides {
            bar(&mut svg, side, y, most);
            y += BAR;
        }
        y += ROW_GAP - 6.0;
    }
    line(&mut svg, "</svg>");
    svg
}

fn begin(report: &Report, height: f64) -> String {
    let mut svg = String::new();
    line(
        &mut svg,
        &format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">"#
        ),
    );
    line(&mut svg, r#"<rect width="100%" height="100%" fill="white"/>"#);
    let title = escape(&format!("{}: {}", report.table, report.what));
    line(&mut svg, &format!(r#"<text x="10" y="20" font-size="14" font-weight="bold">{title}</text>"#));
    svg
}

/// A line for each unit, one above the other, each with a logarithmic scale of its own.
fn curves(report: &Report) -> String {
    let mut units: Vec<&str> = report.rows.iter().map(|row| row.unit.as_str()).collect();
    units.sort_unstable();
    units.dedup();
    let mut svg = begin(report, TOP + units.len() as f64 * (CURVE + 50.0));
    for (place, unit) in units.into_iter().enumerate() {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.unit == unit).collect();
        curve(&mut svg, unit, &rows, TOP + place as f64 * (CURVE + 50.0));
    }
    line(&mut svg, "</svg>");
    svg
}

fn curve(svg: &mut String, unit: &str, rows: &[&Row], top: f64) {
    let points: Vec<(&str, Spread)> =
        rows.iter().filter_map(|row| Some((row.what.as_str(), row.sides.first()?.values()?))).collect();
    // A logarithm has no place for nothing: it lies at the bottom.
    let positive = points.iter().map(|(_, values)| values.least).filter(|least| *least > 0.0);
    let least = positive.fold(f64::MAX, f64::min).log10().floor();
    let most = points.iter().fold(f64::MIN_POSITIVE, |most, (_, values)| most.max(values.greatest)).log10().ceil();
    let share = |value: f64| ((value.max(0.0).log10() - least) / (most - least).max(1.0)).clamp(0.0, 1.0);
    let y = |value: f64| top + 10.0 + CURVE * (1.0 - share(value));
    let x = |place: usize| 80.0 + (WIDTH - 160.0) * place as f64 / (points.len().max(2) - 1) as f64;
    line(svg, &format!(r#"<text x="10" y="{}">{}</text>"#, top, escape(unit)));
    let mut path = String::new();
    for (place, (what, values)) in points.iter().enumerate() {
        let (x, at) = (x(place), y(values.median));
        let step = if place == 0 { 'M' } else { 'L' };
        // A string takes all that is written.
        let _ = write!(path, "{step}{x:.1} {at:.1}");
        let (low, high) = (y(values.least), y(values.greatest));
        line(svg, &format!(r#"<path d="M{x:.1} {low:.1}V{high:.1}" stroke="black"/>"#));
        line(svg, &format!(r##"<circle cx="{x:.1}" cy="{at:.1}" r="3" fill="#2563eb"/>"##));
        let (value, below) = (number(values.median), top + CURVE + 26.0);
        line(svg, &format!(r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{value}</text>"#, at - 8.0));
        line(svg, &format!(r#"<text x="{x:.1}" y="{below}" text-anchor="middle">{}</text>"#, escape(what)));
    }
    line(svg, &format!(r##"<path d="{path}" fill="none" stroke="#2563eb"/>"##));
}

/// The greatest value of a row's trials.
fn most(row: &Row) -> f64 {
    let values = row.sides.iter().flat_map(|side| side.trials.iter().map(|trial| trial.value));
    values.fold(f64::MIN_POSITIVE, f64::max)
}

fn bar(svg: &mut String, side: &Side, y: f64, most: f64) {
    let Some(values) = side.values() else { return };
    let colour = match side.role {
        Role::Ours => "#2563eb",
        Role::Beside => "#9ca3af",
        Role::Limit => "#d1d5db",
    };
    let x = |value: f64| LABEL + BARS * (value / most).clamp(0.0, 1.0);
    let (from, to, middle) = (x(values.least), x(values.greatest), y + BAR / 2.0);
    let (name, height, text) = (escape(&side.name), BAR - 3.0, y + BAR - 4.0);
    line(svg, &format!(r#"<text x="{}" y="{text}" text-anchor="end">{name}</text>"#, LABEL - 8.0));
    let width = x(values.median) - LABEL;
    line(svg, &format!(r#"<rect x="{LABEL}" y="{y}" width="{width:.1}" height="{height}" fill="{colour}"/>"#));
    line(svg, &format!(r#"<path d="M{from:.1} {middle}H{to:.1}" stroke="black"/>"#));
    let value = number(values.median);
    line(svg, &format!(r#"<text x="{:.1}" y="{text}">{value}</text>"#, to.max(LABEL) + 6.0));
}

fn line(svg: &mut String, text: &str) {
    // A string takes all that is written.
    let _ = writeln!(svg, "{text}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn bars_are_to_scale_and_text_is_escaped() {
        let mut report = sample();
        report.what = "<puts>".into();
        let svg = chart(&report);
        assert!(svg.contains("&lt;puts&gt;") && svg.trim_end().ends_with("</svg>"), "{svg}");
        // The limit's median, 1800 of 2000, and Quorate's, 900.
        assert!(svg.contains(r#"width="342.0""#) && svg.contains(r#"width="171.0""#), "{svg}");
    }

    #[test]
    fn a_curve_joins_its_points_and_starts_at_a_power_of_ten() {
        let mut report = sample();
        report.curve = true;
        let mut second = report.rows[0].clone();
        second.sides[0].trials.iter_mut().for_each(|trial| trial.value *= 10.0);
        report.rows.push(second);
        // 900 and 9000 between 100 and 10,000; one decade is half of the height.
        let svg = chart(&report);
        let (from, to) = (TOP + 10.0 + 150.0 * 0.5229, TOP + 10.0 + 150.0 * 0.0229);
        assert!(svg.contains(&format!(r#"d="M80.0 {from:.1}L680.0 {to:.1}""#)), "{svg}");
    }

    #[test]
    fn a_point_that_is_nothing_lies_at_the_bottom() {
        let mut report = sample();
        report.curve = true;
        let mut second = report.rows[0].clone();
        second.sides[0].trials.iter_mut().for_each(|trial| trial.value = 0.0);
        report.rows.push(second);
        let svg = chart(&report);
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(svg.contains(&format!(r#"cx="680.0" cy="{:.1}""#, TOP + 10.0 + 150.0)), "{svg}");
    }
}
