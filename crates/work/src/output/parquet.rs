//! `detections.parquet`: a row for every detection, column by column, for whoever asks with SQL or data frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::parquet::basic::Encoding;
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use ::parquet::schema::types::ColumnPath;
use engine::{Error, Result};

use super::{About, Seen, Sighting, Writer, check_finite};

/// Names are those of `results.jsonl`; boxes are left, top, width and height.
const SCHEMA: &str = "message detections {
    required int64 frame;
    required double pts_s;
    required binary label (STRING);
    required int64 class;
    required float score;
    required float left_px;
    required float top_px;
    required float width_px;
    required float height_px;
    optional int64 track;
    required group zones (LIST) { repeated group list { required binary element (STRING); } }
}";

/// Rows that wait for each other before they are written, as one group: some ten MiB.
const ROWS_MAX: usize = 1 << 16;

/// Detections on their way into columns.
#[derive(Default)]
pub(super) struct Parquet {
    /// Once it is begun.
    file: Option<SerializedFileWriter<Vec<u8>>>,
    rows: Rows,
    labels: BTreeMap<u32, ByteArray>,
    zones: Vec<ByteArray>,
}

/// Rows that are not written yet, column by column.
#[derive(Default)]
struct Rows {
    frame: Vec<i64>,
    pts_s: Vec<f64>,
    label: Vec<ByteArray>,
    class: Vec<i64>,
    score: Vec<f32>,
    box_px: [Vec<f32>; 4],
    /// Those that there are, and of every row whether it has one.
    track: Vec<i64>,
    has_track: Vec<i16>,
    /// Those that there are; of each, and of every row without one, whether it is one, and whether it is of the row of the
    /// one before.
    zone: Vec<ByteArray>,
    is_zone: Vec<i16>,
    is_further: Vec<i16>,
}

impl Parquet {
    /// Writes what waits as a group of rows.
    fn flush(&mut self) -> ::parquet::errors::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !self.rows.frame.is_empty()) else { return Ok(()) };
        let rows = std::mem::take(&mut self.rows);
        let mut group = file.next_row_group()?;
        column::<Int64Type>(&mut group, &rows.frame, None)?;
        column::<DoubleType>(&mut group, &rows.pts_s, None)?;
        column::<ByteArrayType>(&mut group, &rows.label, None)?;
        column::<Int64Type>(&mut group, &rows.class, None)?;
        column::<FloatType>(&mut group, &rows.score, None)?;
        rows.box_px.iter().try_for_each(|side| column::<FloatType>(&mut group, side, None))?;
        column::<Int64Type>(&mut group, &rows.track, Some((&rows.has_track, None)))?;
        column::<ByteArrayType>(&mut group, &rows.zone, Some((&rows.is_zone, Some(&rows.is_further))))?;
        group.close().map(drop)
    }

    fn push(&mut self, about: &About<'_>, seen: &Seen<'_>, one: &Sighting) -> Result<()> {
        let rows = &mut self.rows;
        let signed = |number: u64| {
            i64::try_from(number).map_err(|_| Error::internal(format!("{number} is beyond what Parquet can say")))
        };
        rows.frame.push(signed(seen.index)?);
        rows.pts_s.push(seen.pts_s());
        let label = self.labels.entry(one.class).or_insert_with(|| text(&about.label(one.class)));
        rows.label.push(label.clone());
        rows.class.push(i64::from(one.class));
        rows.score.push(one.score);
        let [left, top, right, bottom] = one.box_px;
        let sides = [left, top, right - left, bottom - top];
        rows.box_px.iter_mut().zip(sides).for_each(|(column, side)| column.push(side));
        rows.has_track.push(i16::from(one.track.is_some()));
        rows.track.extend(one.track.map(signed).transpose()?);
        if one.zones.is_empty() {
            rows.is_zone.push(0);
            rows.is_further.push(0);
        }
        for (place, &zone) in one.zones.iter().enumerate() {
            rows.zone.push(self.zones[zone].clone());
            rows.is_zone.push(1);
            rows.is_further.push(i16::from(place > 0));
        }
        Ok(())
    }
}

impl Writer for Parquet {
    fn begin(&mut self, about: &About<'_>, _out: &mut Vec<u8>) -> Result<()> {
        self.zones = about.task.zones.iter().map(|zone| text(&zone.name)).collect();
        let schema = parse_message_type(SCHEMA).map_err(unwritten)?;
        let file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), properties(about));
        self.file = Some(file.map_err(unwritten)?);
        Ok(())
    }

    fn frame(&mut self, about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()> {
        check_finite(seen)?;
        seen.sightings.iter().try_for_each(|one| self.push(about, seen, one))?;
        if self.rows.frame.len() >= ROWS_MAX {
            self.flush().map_err(unwritten)?;
        }
        // What the file holds back for a while comes later.
        self.file.iter_mut().for_each(|file| out.append(file.inner_mut()));
        Ok(())
    }

    fn end(&mut self, _about: &About<'_>, give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.flush().map_err(unwritten)?;
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.finish().map_err(unwritten)?;
        give(file.inner())
    }
}

/// How columns are written: numbers that hardly repeat as they are, those that rise by their differences, the rest by a
/// dictionary.
fn properties(about: &About<'_>) -> WriterPropertiesPtr {
    let said = |key: &str, value: String| KeyValue { key: format!("packhorse.{key}"), value: Some(value) };
    let (name, version) = about.model;
    let mut properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![
            said("task", about.task.id.clone()),
            said("input", about.task.shown_input().into_owned()),
            said("model", name.to_owned()),
            said("version", version.to_string()),
        ]))
        .set_column_encoding(ColumnPath::from("frame"), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(ColumnPath::from("frame"), false);
    for column in ["score", "left_px", "top_px", "width_px", "height_px"] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(column), false);
    }
    Arc::new(properties.build())
}

/// Writes the next column of a group. With `levels`: how much there is of each value, and whether it is of the row of the
/// one before.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<(&[i16], Option<&[i16]>)>,
) -> ::parquet::errors::Result<()> {
    let next = group.next_column()?;
    let mut column =
        next.ok_or_else(|| ParquetError::General("there are more columns than in the schema".to_owned()))?;
    let (there, further) = levels.map_or((None, None), |(there, further)| (Some(there), further));
    column.typed::<T>().write_batch(values, there, further)?;
    column.close()
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text)
}

/// Writing to memory fails only where memory does.
#[expect(clippy::needless_pass_by_value, reason = "it comes by value from `map_err`")]
fn unwritten(error: ParquetError) -> Error {
    Error::internal(format!("detections cannot be written as Parquet: {error}"))
}
