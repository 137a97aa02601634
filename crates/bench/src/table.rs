//! Tables in Markdown, for a terminal and for docs/performance.md alike.

use comfy_table::{CellAlignment, Table, presets};

/// `rows` under `header`, the first column to the left and the others to the right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for index in 1..header.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// The middle one of `values`, the lower of two; zero of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        for (values, want) in [(&[][..], 0.0), (&[3.0], 3.0), (&[3.0, 1.0], 1.0), (&[5.0, 1.0, 3.0], 3.0)] {
            assert!((median(values) - want).abs() < f64::EPSILON, "{values:?}");
        }
    }

    #[test]
    fn a_table_is_markdown() {
        let text = table(&["what", "fps"], &[vec!["floor".to_owned(), "9.5".to_owned()]]);
        assert_eq!(text.lines().nth(2).map(|line| line.replace(' ', "")), Some("|floor|9.5|".to_owned()));
    }
}
