//! Aligned columns that come a part at a time: widths only grow, so that what is printed page by page needs no room for
//! all of it. Pure.

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    /// As numbers do.
    Right,
}

/// A table of which rows can still come.
pub struct Table {
    columns: Vec<Column>,
    is_headed: bool,
}

struct Column {
    head: String,
    align: Align,
    width: usize,
}

/// What stands between two columns.
const GAP: &str = "  ";

impl Table {
    pub fn new<H: AsRef<str>>(columns: &[(H, Align)]) -> Table {
        let columns = columns.iter().map(|(head, align)| {
            let head = head.as_ref().to_owned();
            Column { width: head.chars().count(), head, align: *align }
        });
        Table { columns: columns.collect(), is_headed: false }
    }

    /// The next rows as lines, below the heads of the columns where they are the first. Cells are text that a terminal
    /// may have.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (column, cell) in self.columns.iter_mut().zip(row) {
                column.width = column.width.max(cell.chars().count());
            }
        }
        let mut lines = String::new();
        if !self.is_headed {
            self.is_headed = true;
            self.line(self.columns.iter().map(|column| column.head.as_str()), &mut lines);
        }
        for row in rows {
            self.line(row.iter().map(String::as_str), &mut lines);
        }
        lines
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>, lines: &mut String) {
        let mut line = String::new();
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            let width = column.width;
            if at > 0 {
                line += GAP;
            }
            line += &match column.align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            };
        }
        *lines += line.trim_end();
        lines.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_widths_only_grow() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let mut table = Table::new(&[("NAME", Align::Left), ("BYTES", Align::Right), ("PATH", Align::Left)]);
        let first = table.lines(&[row(["a", "1.0 KiB", "/x"]), row(["longer", "1 B", ""])]);
        assert_eq!(
            first,
            "NAME      BYTES  PATH\n\
             a       1.0 KiB  /x\n\
             longer      1 B\n"
        );
        let second = table.lines(&[row(["b", "123456789", "/ü"])]);
        assert_eq!(second, "b       123456789  /ü\n");
        let third = table.lines(&[row(["b", "1", "/"])]);
        assert_eq!(third, "b               1  /\n");
        assert_eq!(table.lines(&[]), "");
    }

    #[test]
    fn a_table_without_rows_has_its_heads() {
        let mut table = Table::new(&[("A", Align::Right), ("B", Align::Left)]);
        assert_eq!(table.lines(&[]), "A  B\n");
    }
}
