use super::*;
use crate::engine::{EngineError, LayerTime, MapMut, MapRef};
use crate::map::{Location, MapDesc, MapLayout};

/// Outputs of one row of two cells, NCHW.
struct Outputs(Vec<(MapDesc, Vec<f32>)>, Vec<MapDesc>);

impl Outputs {
    fn new(maps: &[(&str, &[f32])]) -> Self {
        let map = |(name, values): &(&str, &[f32])| {
            let desc = MapDesc {
                name: (*name).to_owned(),
                channels: values.len() / 2,
                height: 1,
                width: 2,
            };
            (desc, values.to_vec())
        };
        let maps: Vec<(MapDesc, Vec<f32>)> = maps.iter().map(map).collect();
        let descs = maps.iter().map(|(desc, _)| desc.clone()).collect();
        Self(maps, descs)
    }
}

impl Engine for Outputs {
    fn input(&self) -> &MapDesc {
        &self.1[0]
    }

    fn outputs(&self) -> &[MapDesc] {
        &self.1
    }

    fn location(&self) -> Location {
        Location::Host
    }

    fn input_map(&mut self) -> MapMut<'_> {
        unimplemented!("these tests do not run the network")
    }

    fn run(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        let (desc, data) = self.0.get(index)?;
        let layout = MapLayout::nchw(desc.channels, 1, 2);
        Some(MapRef::Host(MapView { data, layout }))
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        Ok(Vec::new())
    }
}

fn model() -> Model {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/demo/model.toml");
    Model::read(Path::new(path)).unwrap()
}

/// Heatmap and height of the float network: an object of the second class in the first cell.
const HEATMAP: [f32; 4] = [-3.0, -4.0, 0.0, -5.0];
const HEIGHT: [f32; 2] = [2.0, 7.0];

fn measured(heatmap: &[f32], height: &[f32]) -> Sqnr {
    let model = model();
    let mut reference = Reference::empty(&model);
    let float = Outputs::new(&[("heatmap", &HEATMAP), ("height", &HEIGHT)]);
    reference.add(Path::new("a.bin"), &float).unwrap();
    let other = Outputs::new(&[("heatmap", heatmap), ("height", height)]);
    let mut comparison = reference.compare(&other);
    comparison.add(0, &other).unwrap();
    comparison.add(1, &other).unwrap();
    comparison.finish()
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-4,
        "{found}, expected {expected}"
    );
}

#[test]
fn ratios_are_of_squares_over_all_cells_and_over_object_cells() {
    // Heatmap errors of 1 in the object cell and 0.5 in the other; height error of 0.5.
    let sqnr = measured(&[-3.0, -4.5, 1.0, -5.0], &[2.5, 7.0]);
    assert_eq!((sqnr.frames, sqnr.object_cells), (1, 1));
    let [heatmap, height] = &sqnr.outputs[..] else {
        panic!("{sqnr:?}");
    };
    assert_eq!((&*heatmap.name, &*height.name), ("heatmap", "height"));
    // (9 + 16 + 0 + 25) / (1 + 0.25), and (9 + 0) / 1.
    close(heatmap.all, 10.0 * 40.0_f64.log10());
    close(heatmap.objects, 10.0 * 9.0_f64.log10());
    // (4 + 49) / 0.25, and 4 / 0.25.
    close(height.all, 10.0 * 212.0_f64.log10());
    close(height.objects, 10.0 * 16.0_f64.log10());
    close(
        sqnr.figure,
        (heatmap.all + heatmap.objects + height.objects) / 3.0,
    );
}

#[test]
fn ratios_without_error_or_signal_are_finite() {
    let sqnr = measured(&HEATMAP, &HEIGHT);
    assert_eq!(sqnr.figure, MOST);
    let nan = measured(&[-3.0, f32::NAN, 0.0, -5.0], &HEIGHT);
    assert_eq!((nan.outputs[0].all, nan.outputs[1].all), (-MOST, MOST));
}

#[test]
fn an_object_cell_has_a_score_of_a_tenth() {
    // sigmoid(-2.1972) is slightly above 0.1, sigmoid(-2.1973) slightly below.
    assert!(is_object([-9.0, -2.1972].into_iter()));
    assert!(!is_object([-9.0, -2.1973].into_iter()));
}

#[test]
fn a_missing_output_is_an_error() {
    let model = model();
    let mut reference = Reference::empty(&model);
    let headless = Outputs::new(&[("height", &HEIGHT)]);
    let error = reference.add(Path::new("a.bin"), &headless).unwrap_err();
    assert!(error.to_string().contains("no output 1"), "{error}");
    let float = Outputs::new(&[("heatmap", &HEATMAP), ("height", &HEIGHT)]);
    reference.add(Path::new("a.bin"), &float).unwrap();
    let error = reference.compare(&headless).add(0, &headless).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the number of outputs is 1, the float network's is 2"
    );
}
