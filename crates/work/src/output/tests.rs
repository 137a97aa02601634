//! The same few frames in every form.

use ::parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;
use crate::track::Zone;

fn sighting(class: u32, score: f32, track: Option<u64>) -> Sighting {
    Sighting { class, score, box_px: [1.0, 2.125, 30.456, 40.0], track, zones: Vec::new() }
}

/// A frame: its number, its time in microseconds, what is in it.
type Frame = (u64, i64, Vec<Sighting>);

/// What is written of `frames`, of a video of 64x48 pixels with the zones `door` and `yard`.
fn bytes(form: Option<Form>, frames: &[Frame]) -> Result<Vec<u8>> {
    let labels = [(0, "person"), (1, "a \"b\" <c>\n"), (2, "car")].map(|(class, name)| (class, name.to_owned())).into();
    let zone = |name: &str| Zone { name: name.to_owned(), polygon: Vec::new() };
    let zones = ["door", "yard"].map(zone).into();
    let task = Task { id: "t".to_owned(), zones, ..Task::new("/v/a.mp4".as_ref(), "m").unwrap() };
    let about = About { task: &task, probe: &Probe::example(), model: ("m", 3), labels: &labels };
    let mut writer = form.map_or_else(|| lines(&about), |form| writer(form).unwrap());
    let mut out = Vec::new();
    writer.begin(&about, &mut out)?;
    for (index, pts_us, sightings) in frames {
        writer.frame(&about, &Seen { index: *index, pts_us: *pts_us, sightings, crossings: &[] }, &mut out)?;
    }
    writer.end(&about, &mut |piece| {
        out.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(out)
}

/// The same as text.
fn written(form: Option<Form>, frames: &[Frame]) -> Result<String> {
    bytes(form, frames).map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Frames 0, 1, 2 and 5: nothing, a followed person with something strange, the same, a car.
fn frames() -> [Frame; 4] {
    [
        (0, 0, vec![]),
        (1, 40_000, vec![sighting(0, 0.831_24, Some(7)), sighting(1, 1.0, None)]),
        (2, 80_000, vec![sighting(1, 0.5, None), sighting(0, 0.75, Some(7))]),
        (5, 200_000, vec![sighting(2, 0.6, None), sighting(2, 0.5, None), sighting(9, 0.5, None)]),
    ]
}

#[test]
fn lines_are_one_a_frame() {
    let check = |frame: Frame, want: &str| {
        let line = written(None, &[frame]).unwrap();
        assert_eq!(line, format!("{want}\n"));
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    };
    check((0, 0, vec![]), r#"{"frame":0,"pts_s":0.000000,"detections":[]}"#);
    check(
        (7, 700_000, vec![sighting(0, 0.831_24, None), sighting(1, 1.0, Some(12)), sighting(9, 0.5, None)]),
        concat!(
            r#"{"frame":7,"pts_s":0.700000,"detections":["#,
            r#"{"label":"person","class":0,"score":0.8312,"box_px":[1.00,2.12,30.46,40.00]},"#,
            r#"{"label":"a \"b\" <c>\n","class":1,"score":1.0000,"box_px":[1.00,2.12,30.46,40.00],"track":12},"#,
            r#"{"label":"9","class":9,"score":0.5000,"box_px":[1.00,2.12,30.46,40.00]}]}"#
        ),
    );
}

#[test]
fn mot_has_a_row_for_each_object() {
    let got = written(Some(Form::Mot), &frames()[..2]).unwrap();
    assert_eq!(got, "2,7,1.00,2.12,29.46,37.88,0.8312,-1,-1,-1\n2,-1,1.00,2.12,29.46,37.88,1.0000,-1,-1,-1\n");
}

#[test]
fn subtitles_change_when_what_is_to_be_seen_does() {
    let got = written(Some(Form::Webvtt), &frames()).unwrap();
    let want = "WEBVTT\n\n\
        00:00:00.040 --> 00:00:00.200\n1 person, 1 a \"b\" &lt;c&gt;\n\n\
        00:00:00.200 --> 00:00:00.320\n2 car, 1 9\n\n";
    assert_eq!(got, want);
    // What is shown before zero is not in subtitles, and an hour is one.
    let person = || vec![sighting(0, 0.5, None)];
    let got = written(Some(Form::Webvtt), &[(0, -80_000, person()), (1, -40_000, vec![])]).unwrap();
    assert_eq!(got, "WEBVTT\n\n");
    let got = written(Some(Form::Webvtt), &[(0, 3_723_004_000, person())]).unwrap();
    assert!(got.contains("01:02:03.004 --> 01:02:03.044\n1 person\n"), "{got}");
    assert_eq!(written(Some(Form::Webvtt), &[]).unwrap(), "WEBVTT\n\n");
}

#[test]
fn coco_has_images_annotations_and_categories() {
    let value: serde_json::Value = serde_json::from_str(&written(Some(Form::Coco), &frames()).unwrap()).unwrap();
    let ids = |list: &str, field: &str| {
        value[list].as_array().unwrap().iter().map(|one| one[field].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids("images", "id"), [0, 1, 2, 5]);
    assert_eq!(ids("categories", "id"), [0, 1, 2]);
    assert_eq!(ids("annotations", "id"), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(ids("annotations", "image_id"), [1, 1, 2, 2, 5, 5, 5]);
    let want = serde_json::json!({"id": 1, "image_id": 1, "category_id": 0, "bbox": [1.0, 2.12, 29.46, 37.88],
        "area": 1115.65, "iscrowd": 0, "score": 0.8312, "track_id": 7});
    assert_eq!(value["annotations"][0], want);
    assert_eq!(value["images"][1]["width"], 64);
    // More than waits in memory.
    let many: Vec<Frame> = (0..5000).map(|index| (index, 0, vec![sighting(0, 0.5, None)])).collect();
    let value: serde_json::Value = serde_json::from_str(&written(Some(Form::Coco), &many).unwrap()).unwrap();
    let annotations = value["annotations"].as_array().unwrap();
    assert!((0..5000).eq(annotations.iter().map(|one| one["image_id"].as_u64().unwrap())));
    serde_json::from_str::<serde_json::Value>(&written(Some(Form::Coco), &[]).unwrap()).unwrap();
}

/// Rows of a Parquet file as its own library prints them, and how many groups of rows they are in.
fn rows(bytes: Vec<u8>) -> (Vec<String>, usize) {
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let groups = file.num_row_groups();
    (file.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect(), groups)
}

#[test]
fn parquet_has_a_row_for_each_object() {
    let mut frames = frames();
    frames[2].2[0].zones = vec![1, 0];
    frames[3].2[2].zones = vec![0];
    let written = bytes(Some(Form::Parquet), &frames).unwrap();
    assert_eq!(written, bytes(Some(Form::Parquet), &frames).unwrap());
    let (got, groups) = rows(written);
    assert_eq!((got.len(), groups), (7, 1));
    let box_px = "left_px: 1.0, top_px: 2.125, width_px: 29.456, height_px: 37.875";
    let want = [
        (0, "frame: 1, pts_s: 0.04, label: \"person\", class: 0, score: 0.83124", "track: 7, zones: []"),
        (
            2,
            "frame: 2, pts_s: 0.08, label: \"a \"b\" <c>\n\", class: 1, score: 0.5",
            "track: null, zones: [\"yard\", \"door\"]",
        ),
        (6, "frame: 5, pts_s: 0.2, label: \"9\", class: 9, score: 0.5", "track: null, zones: [\"door\"]"),
    ];
    for (row, before, after) in want {
        assert_eq!(got[row], format!("{{{before}, {box_px}, {after}}}"));
    }
    assert_eq!(rows(bytes(Some(Form::Parquet), &[]).unwrap()), (vec![], 0));
    // More than waits in memory.
    let many: Vec<Frame> = (0..35_000).map(|index| (index, 0, vec![sighting(0, 0.5, Some(index)); 2])).collect();
    let (got, groups) = rows(bytes(Some(Form::Parquet), &many).unwrap());
    assert_eq!((got.len(), groups), (70_000, 2));
    let frame = |row: &String| row[8..].split(',').next().unwrap().parse::<usize>().unwrap();
    assert!(got.iter().enumerate().all(|(place, row)| frame(row) == place / 2));
}

#[test]
fn rekognition_has_labels_by_time() {
    let text = written(Some(Form::Rekognition), &frames()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["JobStatus"], &value["JobId"]), (&"SUCCEEDED".into(), &"t".into()));
    let metadata = serde_json::json!({"Codec": "h264", "DurationMillis": 10000, "Format": "mov,mp4,m4a,3gp,3g2,mj2",
        "FrameRate": 25, "FrameHeight": 48, "FrameWidth": 64, "ColorRange": "LIMITED"});
    assert_eq!(value["VideoMetadata"], metadata);
    let labels = value["Labels"].as_array().unwrap();
    let told: Vec<_> = labels
        .iter()
        .map(|one| {
            let label = &one["Label"];
            let instances = label["Instances"].as_array().unwrap().len();
            (one["Timestamp"].as_i64().unwrap(), label["Name"].as_str().unwrap(), instances)
        })
        .collect();
    let strange = "a \"b\" <c>\n";
    let want =
        [(40, "person", 1), (40, strange, 1), (80, strange, 1), (80, "person", 1), (200, "car", 2), (200, "9", 1)];
    assert_eq!(told, want);
    assert_eq!(labels[4]["Label"]["Confidence"], 60.0);
    let box_share = &labels[0]["Label"]["Instances"][0]["BoundingBox"];
    assert!((box_share["Left"].as_f64().unwrap() - 1.0 / 64.0).abs() < 1e-5, "{box_share}");
    assert!((box_share["Height"].as_f64().unwrap() - 37.875 / 48.0).abs() < 1e-5, "{box_share}");
    serde_json::from_str::<serde_json::Value>(&written(Some(Form::Rekognition), &[]).unwrap()).unwrap();
}

#[test]
fn what_cannot_be_said_is_an_error() {
    for form in [None, Some(Form::Coco), Some(Form::Mot), Some(Form::Parquet), Some(Form::Rekognition)] {
        let broken = [
            sighting(0, f32::NAN, None),
            Sighting { box_px: [0.0, 0.0, f32::INFINITY, 0.0], ..sighting(0, 0.5, None) },
        ];
        for one in broken {
            let error = bytes(form, &[(3, 0, vec![one])]).unwrap_err();
            assert!(error.message.contains("frame 3"), "{form:?}: {error}");
        }
    }
}

#[test]
fn forms_are_called_by_their_names() {
    for form in Form::ALL {
        assert_eq!(form.name().parse::<Form>().unwrap(), form);
        assert_eq!(serde_json::to_value(form).unwrap(), form.name());
    }
    assert!("csv".parse::<Form>().unwrap_err().message.contains("contact-sheet"));
}
