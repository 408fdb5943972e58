use std::collections::HashSet;
use std::path::Path;

use super::split::Split;
use super::workbench::{centre, levels, placement, round_pfn};
use super::*;
use crate::build::config::FramesConfig;
use crate::build::onnx::Graph;
use crate::build::{compile, equalize, quantize};
use crate::engine::Engine;
use crate::points;

fn overrides(keys: &[(&str, toml::Value)]) -> ConfigOverrides {
    let mut overrides = ConfigOverrides::default();
    keys.iter()
        .for_each(|(key, value)| overrides.set(key, value.clone()));
    overrides
}

fn frames(count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| format!("{i:03}.bin").into()).collect()
}

#[test]
fn nvidia_matches_the_recipe_of_its_tools() {
    let configs = configs(&overrides(&[("recipe", "nvidia".into())]), false).unwrap();
    let [config] = &configs[..] else {
        panic!("{configs:?}");
    };
    assert_eq!(config.label(), "mse, all cells, float deconvolutions");
    assert_eq!(config.calibration.bins, 2048);
    assert!(config.placement.first_layer && config.placement.heads);
    let with_max = [
        ("recipe", "nvidia".into()),
        ("calibration.method", "max".into()),
    ];
    let message = super::configs(&overrides(&with_max), false)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`calibration.method` = \"mse\", not \"max\""),
        "{message}"
    );
}

#[test]
fn an_override_applies_to_every_candidate() {
    let all = configs(&overrides(&[("recipe", "best".into())]), false).unwrap();
    assert_eq!(all, candidates());
    let labels: HashSet<String> = all.iter().map(Config::label).collect();
    assert_eq!(labels.len(), all.len(), "labels are unique");
    let keys = [
        ("recipe", "best".into()),
        ("equalize.alpha", 0.25.into()),
        ("placement.skip", vec!["a.*".to_owned()].into()),
    ];
    let some = configs(&overrides(&keys), false).unwrap();
    assert!(some.len() < all.len());
    for (at, config) in some.iter().enumerate() {
        assert_eq!(config.equalize.alpha, 0.25);
        assert_eq!(config.placement.skip, ["a.*"]);
        assert!(!some[..at].contains(config));
    }
}

#[test]
fn every_kth_chosen_frame_is_held_out() {
    let all = frames(10);
    let options = |limit, seed, held_out| FramesConfig {
        limit,
        seed,
        held_out,
    };
    let split = Split::new(&all, &options(0, 9, 4)).unwrap();
    assert_eq!(split.held_out, [all[3].clone(), all[7].clone()]);
    assert_eq!(split.calibration.len(), 8);
    let split = Split::new(&all, &options(0, 0, 0)).unwrap();
    assert_eq!((split.calibration, split.held_out.len()), (all.clone(), 0));

    let chosen = |seed| {
        let split = Split::new(&all, &options(6, seed, 3)).unwrap();
        assert_eq!((split.calibration.len(), split.held_out.len()), (4, 2));
        let mut both = [split.calibration.clone(), split.held_out.clone()].concat();
        assert!(split.calibration.is_sorted() && split.held_out.is_sorted());
        both.sort();
        both.dedup();
        assert_eq!(both.len(), 6);
        both
    };
    assert_eq!(chosen(1), chosen(1));
    assert!((2..6).any(|seed| chosen(seed) != chosen(1)));
    // Every frame is chosen by some seed.
    let mut seen: Vec<PathBuf> = (0..20).flat_map(chosen).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, all);

    assert!(Split::new(&[], &options(0, 0, 4)).is_err());
}

#[test]
fn the_centre_is_a_square_in_the_middle() {
    let cells = centre([64, 32]);
    let count = cells.iter().filter(|c| **c).count();
    assert_eq!((cells.len(), count), (64 * 32, 16 * 16));
    assert!(
        cells[32 * 32 + 16] && cells[24 * 32 + 8] && !cells[23 * 32 + 8] && !cells[24 * 32 + 7]
    );
    // All of a smaller map is its middle.
    assert!(centre([3, 5]).iter().all(|c| *c));
}

#[test]
fn pfn_weights_are_rounded_to_codes() {
    let mut pfn = Pfn {
        layers: vec![crate::model::PfnLayer {
            in_features: 2,
            out_features: 2,
            weight: vec![1.0, 0.5, 0.0, 0.0],
            bias: vec![0.3, 0.4],
        }],
    };
    round_pfn(&mut pfn);
    // 0.5 is 63.5 codes of 1/127, which rounds to even: 64.
    let half = 64.0 * (1.0_f32 / 127.0);
    assert_eq!(pfn.layers[0].weight, [1.0, half, 0.0, 0.0]);
    assert_eq!(pfn.layers[0].bias, [0.3, 0.4]);
}

/// On real frames, the equalised and aligned demo network has the same outputs as the original.
#[test]
fn equalisation_and_alignment_keep_the_outputs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::read(&root.join("engines/demo")).unwrap();
    let frames = points::list_frames(&[root.join("calib/demo")], false);
    let overrides = overrides(&[("frames.limit", 3.into()), ("frames.held_out", 3.into())]);
    let job = Job {
        folder: &folder,
        frames: &frames,
        layout: None,
        training: None,
        allow_low_sqnr: false,
        overrides: &overrides,
        scales: None,
        calibration: None,
        threads: 2,
    };
    let config = configs(&overrides, false).unwrap().remove(0);
    let mut bench = Workbench::new(&job, &config.frames, &Silent).unwrap();
    let at = bench.network(&config).unwrap();
    let network = &bench.networks[at];
    assert_eq!(bench.networks.len(), 2);
    let amax = network.calibration.tensors.iter();
    let amax = amax
        .map(|(name, stats)| (name.clone(), stats.all.max()))
        .collect();
    let placement = placement(&config);
    let quantized = quantize::insert_qdq(&network.graph, &amax, &placement).unwrap();
    let levels = levels(network, &quantized.quantizers);
    let aligned = equalize::align(&network.graph, &network.pfn, &levels).unwrap();
    let float = (folder.rpn.graph.clone(), folder.pfe.pfn.clone());
    let outputs = |(graph, pfn): &(Graph, Pfn)| -> Vec<Vec<f32>> {
        let mut runner = bench.runner(pfn, compile::cpu(graph).unwrap()).unwrap();
        runner.run(&bench.split.held_out[0], None).unwrap();
        let engine = runner.engine();
        let views = (0..engine.outputs().len()).map(|i| engine.output(i).unwrap());
        let values = views.map(|view| {
            let layout = view.layout;
            let index = |i: usize| layout.index(i / 128 / 128, i / 128 % 128, i % 128);
            let count = layout.channels * layout.height * layout.width;
            (0..count).map(|i| view.data[index(i)]).collect()
        });
        values.collect()
    };
    let expected = outputs(&float);
    for changed in [(network.graph.clone(), network.pfn.clone()), aligned] {
        assert_ne!(changed.1, float.1, "the PFN changes too");
        for (found, expected) in outputs(&changed).iter().zip(&expected) {
            let errors = found.iter().zip(expected).map(|(a, b)| f64::from(a - b));
            let noise: f64 = errors.map(|e| e * e).sum();
            let signal: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
            let relative = (noise / signal).sqrt();
            // The network amplifies rounding: changing the last bit of each weight causes up to 7e-6.
            assert!(relative < 3e-5, "{relative}");
        }
    }
}

struct Silent;

impl Progress for Silent {
    fn begin_at(&self, _: &str, _: usize, _: usize) {}
    fn advance(&self) {}
}
