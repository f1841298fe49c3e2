//! The chart: bars in groups, one group a workload, each scaled to its own longest bar, as SVG text.

use std::fmt::Write;

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// How long it is.
    pub value: f64,
    /// Whether it is pgq's, which has a colour of its own.
    pub is_ours: bool,
}

/// Bars of one unit.
#[derive(Debug, Clone)]
pub struct Group {
    /// The line above them.
    pub title: String,
    /// Behind each number.
    pub unit: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

const WIDTH: usize = 980;
/// Where bars begin: the labels stand left of it.
const LEFT: usize = 330;
/// The longest bar: the numbers stand right of it.
const LONGEST: f64 = 480.0;
const LINE: usize = 20;
const GAP: usize = 18;

/// The chart of these groups under a headline and a line below it.
pub fn chart(headline: &str, subline: &str, groups: &[Group]) -> String {
    let height: usize = 70 + groups.iter().map(|group| (group.bars.len() + 1) * LINE + GAP).sum::<usize>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(&mut svg, (12, 26), "font-size=\"18\" font-weight=\"bold\"", headline);
    text(&mut svg, (12, 48), "fill=\"#555555\"", subline);
    let mut y = 70;
    for group in groups {
        y = draw(&mut svg, y, group) + GAP;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws a group from this height on and returns where it ends.
fn draw(svg: &mut String, mut y: usize, group: &Group) -> usize {
    text(svg, (12, y + 14), "font-weight=\"bold\"", &group.title);
    y += LINE;
    let longest = group.bars.iter().map(|bar| bar.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    for bar in &group.bars {
        let is_drawn = bar.value.is_finite() && longest > 0.0;
        // A bar that is there is seen.
        let length = if is_drawn { (bar.value.max(0.0) / longest * LONGEST).max(1.0) } else { 0.0 };
        let colour = if bar.is_ours { "#2b6cb0" } else { "#a0aec0" };
        let (top, base) = (y + 2, y + 14);
        text(svg, (LEFT - 8, base), "text-anchor=\"end\"", &bar.label);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>",
            LINE - 5
        );
        let number = if is_drawn { format!("{} {}", rounded(bar.value), group.unit) } else { "not available".into() };
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{base}\">{}</text>", LEFT as f64 + length + 6.0, escaped(&number));
        y += LINE;
    }
    y
}

fn text(svg: &mut String, (x, y): (usize, usize), style: &str, content: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" {style}>{}</text>", escaped(content));
}

fn escaped(text: &str) -> String {
    let printable = text.chars().filter(|character| !character.is_control());
    let mut escaped = String::new();
    for character in printable {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A number as people read it: thousands with commas, small ones with digits behind the point.
pub fn rounded(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        text.insert(0, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags that are opened, closed and nested as they must be, and no bare ampersand.
    fn is_well_formed(svg: &str) -> Result<(), String> {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some(start) = rest.find('<') {
            let (before, tag) = rest.split_at(start);
            if let Some(bare) = before.split('&').skip(1).find(|piece| !piece.contains(';')) {
                return Err(format!("a bare ampersand before {bare}"));
            }
            let end = tag.find('>').ok_or("a tag without an end")?;
            let inner = &tag[1..end];
            if inner.matches('"').count() % 2 == 1 || inner.contains('<') {
                return Err(format!("a broken tag: {inner}"));
            }
            let name = inner.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
            if inner.starts_with('/') {
                let last = open.pop();
                if last != Some(name) {
                    return Err(format!("{name} closes {last:?}"));
                }
            } else if !inner.ends_with('/') {
                open.push(name);
            }
            rest = &tag[end + 1..];
        }
        if open.is_empty() {
            Ok(())
        } else {
            Err(format!("left open: {open:?}"))
        }
    }

    fn bar(label: &str, value: f64, is_ours: bool) -> Bar {
        Bar { label: label.into(), value, is_ours }
    }

    #[test]
    fn a_chart_is_well_formed_whatever_the_labels_and_values() {
        let bars = vec![
            bar("pgq <fast> & \"quoted\"", 414_000.0, true),
            bar("n = 100\u{1}", 100.0, false),
            bar("none", f64::NAN, false),
            bar("endless", f64::INFINITY, false),
            bar("negative", -3.0, false),
        ];
        let group = Group { title: "W3 > all".into(), unit: "jobs/s".into(), bars };
        let empty = Group { title: "nothing".into(), unit: "ms".into(), bars: Vec::new() };
        let svg = chart("a & b", "5 < 6", &[group, empty]);
        assert_eq!(is_well_formed(&svg), Ok(()));
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("414,000 jobs/s"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 6);
        assert_eq!(is_well_formed(&chart("", "", &[])), Ok(()));
    }

    #[test]
    fn what_is_not_well_formed_is_found() {
        for broken in ["<a><b></a></b>", "<a>", "<a>x & y</a>", "<a", "<a b=\"></a>"] {
            assert!(is_well_formed(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn numbers_read_well() {
        for (value, text) in
            [(0.327, "0.33"), (99.5, "99.50"), (999.6, "1,000"), (1_234_567.0, "1,234,567"), (-4_000.0, "-4,000")]
        {
            assert_eq!(rounded(value), text);
        }
        assert_eq!(rounded(f64::NAN), "-");
    }
}
