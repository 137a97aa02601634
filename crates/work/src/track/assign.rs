//! Who goes with whom: the assignment that costs least in all, by shortest augmenting paths (the Hungarian method, in the
//! form of Jonker and Volgenant).

/// For each row of `costs` its column; `None` for a row that stays alone, which costs `alone`. No pair costs `alone` or
/// more. Rows are equally long; what is no number is beyond reach.
pub(super) fn assign(costs: &[Vec<f64>], alone: f64) -> Vec<Option<usize>> {
    let (rows, columns) = (costs.len(), costs.first().map_or(0, Vec::len));
    // Whatever is not worth it is as dear as to stay alone, for which each row has a column of its own.
    let cost = |row: usize, column: usize| match column.checked_sub(columns) {
        None => Some(costs[row][column]).filter(|&cost| cost < alone).unwrap_or(f64::INFINITY),
        Some(own) if own == row => alone,
        Some(_) => f64::INFINITY,
    };
    let all = columns + rows;
    let (mut of_row, mut of_column) = (vec![0.0; rows], vec![0.0; all]);
    let mut row_at: Vec<Option<usize>> = vec![None; all];
    for start in 0..rows {
        let mut paths = vec![(f64::INFINITY, None); all];
        let mut done = vec![false; all];
        let (mut row, mut came) = (start, None);
        // Grows the tree of cheapest paths from `start` until it meets a free column; the row's own always is.
        let end = loop {
            let base = came.map_or(0.0, |column: usize| paths[column].0);
            for column in (0..all).filter(|&column| !done[column]) {
                let length = base + cost(row, column) - of_row[row] - of_column[column];
                if length < paths[column].0 {
                    paths[column] = (length, came);
                }
            }
            let nearest = (0..all).filter(|&column| !done[column]).min_by(|&a, &b| paths[a].0.total_cmp(&paths[b].0));
            let Some(nearest) = nearest.filter(|&column| paths[column].0.is_finite()) else { break None };
            done[nearest] = true;
            match row_at[nearest] {
                None => break Some(nearest),
                Some(next) => (row, came) = (next, Some(nearest)),
            }
        };
        let Some(end) = end else { continue };
        let length = paths[end].0;
        of_row[start] += length;
        for column in (0..all).filter(|&column| done[column] && column != end) {
            let more = length - paths[column].0;
            of_column[column] -= more;
            if let Some(row) = row_at[column] {
                of_row[row] += more;
            }
        }
        let mut column = end;
        while let (_, Some(before)) = paths[column] {
            row_at[column] = row_at[before];
            column = before;
        }
        row_at[column] = Some(start);
    }
    let mut partners = vec![None; rows];
    for (column, row) in row_at.iter().enumerate().take(columns) {
        if let Some(row) = *row {
            partners[row] = Some(column);
        }
    }
    partners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `partners` cost.
    fn sum(costs: &[Vec<f64>], alone: f64, partners: &[Option<usize>]) -> f64 {
        costs.iter().zip(partners).map(|(row, partner)| partner.map_or(alone, |partner| row[partner])).sum()
    }

    /// The least that any assignment costs, found by trying all.
    fn least(costs: &[Vec<f64>], alone: f64, taken: u32) -> f64 {
        let Some((row, rest)) = costs.split_first() else { return 0.0 };
        let free = (0..row.len()).filter(|column| taken >> column & 1 == 0 && row[*column] < alone);
        let paired = free.map(|column| row[column] + least(rest, alone, taken | 1 << column));
        paired.fold(alone + least(rest, alone, taken), f64::min)
    }

    proptest! {
        #[test]
        fn no_assignment_is_cheaper(
            (costs, alone) in (0usize..6, 0usize..6).prop_flat_map(|(rows, columns)| {
                let row = prop::collection::vec((0u32..20).prop_map(|cost| f64::from(cost) / 16.0), columns);
                (prop::collection::vec(row, rows), (1u32..24).prop_map(|cost| f64::from(cost) / 16.0))
            })
        ) {
            let partners = assign(&costs, alone);
            prop_assert_eq!(partners.len(), costs.len());
            let mut columns: Vec<usize> = partners.iter().flatten().copied().collect();
            columns.sort_unstable();
            let paired = columns.len();
            columns.dedup();
            prop_assert_eq!(columns.len(), paired);
            for (row, partner) in costs.iter().zip(&partners) {
                prop_assert!(partner.is_none_or(|partner| row[partner] < alone));
            }
            // Sixteenths are added exactly.
            prop_assert_eq!(sum(&costs, alone, &partners), least(&costs, alone, 0));
        }
    }

    #[test]
    fn what_is_no_number_is_beyond_reach() {
        assert_eq!(assign(&[vec![f64::NAN, 0.5], vec![f64::NAN, 0.1]], 0.8), [None, Some(1)]);
        assert_eq!(assign(&[], 0.8), []);
        assert_eq!(assign(&[vec![], vec![]], 0.8), [None, None]);
    }
}
