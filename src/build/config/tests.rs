use super::*;

fn parse(text: &str) -> Result<ConfigOverrides, ConfigError> {
    ConfigOverrides::parse(text, Path::new("quantize.toml"))
}

/// The configuration in the module documentation: its first ```toml block.
fn documented() -> String {
    let lines = include_str!("../config.rs").lines();
    let lines = lines.map(|line| line.trim_start_matches("//!"));
    lines
        .skip_while(|line| line.trim() != "```toml")
        .skip(1)
        .take_while(|line| line.trim() != "```")
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_documented_file_has_every_key_and_the_defaults() {
    let text = documented();
    let keys: Table = toml::from_str(&text).unwrap();
    assert_eq!(keys, Table::try_from(Config::default()).unwrap());
    let config = parse(&text).unwrap().apply_to(&Config::default()).unwrap();
    assert_eq!(config, Config::default());
    // The serialised configuration reads back unchanged.
    let echo = parse(&config.to_toml()).unwrap();
    assert_eq!(echo.apply_to(&Config::default()).unwrap(), config);
}

#[test]
fn flags_override_the_file_and_the_file_the_base() {
    let mut overrides = parse("[calibration]\nmethod = \"mse\"\ncells = \"occupied\"\n").unwrap();
    overrides.set("calibration.method", "entropy");
    overrides.set("equalize.alpha", 0.25);
    overrides.set("recipe", "best");
    let base = Config {
        bias_correction: BiasCorrection::Occupied,
        ..Config::default()
    };
    let config = overrides.apply_to(&base).unwrap();
    assert_eq!(overrides.recipe().unwrap(), Recipe::Best);
    assert_eq!(config.recipe, Recipe::Best);
    assert_eq!(config.calibration.method, CalibrationMethod::Entropy);
    assert_eq!(config.calibration.cells, Cells::Occupied);
    assert_eq!(config.calibration.bins, 2048);
    assert_eq!(config.equalize.alpha, 0.25);
    assert_eq!(config.bias_correction, BiasCorrection::Occupied);
}

#[test]
fn options_of_pytorch_quantization_are_told_what_holds_instead() {
    for (key, part) in FOREIGN {
        let error = parse(&format!("[calibration]\n{key} = true")).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&format!("unknown field `{key}`")),
            "{message}"
        );
        assert!(message.ends_with(part), "{message}");
    }
}

#[test]
fn invalid_values_are_refused_with_key_value_and_range() {
    for (text, needles) in [
        (
            "[calibration]\npercentile = 101.0",
            ["`calibration.percentile` is 101", "at most 100"],
        ),
        (
            "[calibration]\npercentile = nan",
            ["`calibration.percentile` is NaN", "at most 100"],
        ),
        (
            "[calibration]\nbins = 100",
            ["`calibration.bins` is 100", "256 to 8192"],
        ),
        (
            "[equalize]\nalpha = -0.5",
            ["`equalize.alpha` is -0.5", "0 to 1"],
        ),
        (
            "[frames]\nheld_out = 1",
            ["`frames.held_out` is 1", "at least 2"],
        ),
        (
            "recipe = \"best\"\n[frames]\nheld_out = 0",
            ["`frames.held_out` is 0", "`best`"],
        ),
        ("recipe = \"fast\"", ["line 1", "`fast`"]),
        (
            "[calibration]\nmethods = \"mse\"",
            ["line 2", "unknown field `methods`"],
        ),
        (
            "[placement]\nskip = \"head\"",
            ["line 2", "expected a sequence"],
        ),
        ("[placement]\npfn = \"int8\"", ["line 2", "`int8`"]),
        ("recipe = ", ["line 1", "quantize.toml"]),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.starts_with("quantize.toml: "), "{message}");
        for needle in needles {
            assert!(message.contains(needle), "{needle}: {message}");
        }
    }
    // A conflict between file and flags is found when both are applied.
    let mut overrides = parse("[frames]\nheld_out = 0").unwrap();
    overrides.set("recipe", "best");
    let message = overrides
        .apply_to(&Config::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("`frames.held_out` is 0"), "{message}");
    let mut flags = ConfigOverrides::default();
    flags.set("equalize.alpha", 3.0);
    let message = flags.apply_to(&Config::default()).unwrap_err().to_string();
    assert!(
        message.starts_with("command line: `equalize.alpha` is 3"),
        "{message}"
    );
}

#[test]
fn a_fixed_recipe_accepts_only_skips_and_frames() {
    let base = Config {
        recipe: Recipe::Nvidia,
        ..Config::default()
    };
    let free =
        "recipe = \"nvidia\"\nplacement.skip = [\"a.*\"]\nframes = { limit = 3, held_out = 2 }";
    let config = parse(free).unwrap().apply_to_fixed(&base).unwrap();
    assert_eq!(config.placement.skip, ["a.*"]);
    assert_eq!((config.frames.limit, config.frames.held_out), (3, 2));
    // Setting a key to the recipe's own value is allowed.
    parse("calibration.method = \"percentile\"")
        .unwrap()
        .apply_to_fixed(&base)
        .unwrap();
    for (text, key) in [
        (
            "calibration.method = \"mse\"",
            "`calibration.method` = \"percentile\", not \"mse\"",
        ),
        ("bias_correction = \"off\"", "`bias_correction`"),
        (
            "placement.heads = false",
            "`placement.heads` = true, not false",
        ),
        ("equalize.alpha = 0.25", "`equalize.alpha`"),
    ] {
        let message = parse(text)
            .unwrap()
            .apply_to_fixed(&base)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(key) && message.contains("custom"),
            "{message}"
        );
    }
}

#[test]
fn errors_name_an_unreadable_file() {
    let message = ConfigOverrides::read(Path::new("no/such.toml"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("no/such.toml"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.toml");
    std::fs::write(&path, "#".repeat(1 << 17)).unwrap();
    let message = ConfigOverrides::read(&path).unwrap_err().to_string();
    assert!(message.contains("131072 bytes"), "{message}");
}
