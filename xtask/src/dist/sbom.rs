//! The bill of materials, in `CycloneDX` 1.5: the program, the crates in it, and which needs which.

use serde_json::{Value, json};

use crate::dist::dependencies::{Crate, Dependencies};

/// The JSON. The same dependencies give the same text: it has no time and no serial number.
pub fn text(dependencies: &Dependencies) -> anyhow::Result<String> {
    let all = dependencies.sorted();
    let edges: Vec<Value> = all
        .iter()
        .map(|one| {
            let on = one.depends_on.iter().filter_map(|id| dependencies.get(id));
            json!({ "ref": one.purl(), "dependsOn": on.map(Crate::purl).collect::<Vec<_>>() })
        })
        .collect();
    // The subject has an entry of its own, and is not one of its components.
    let is_part = |one: &&&Crate| one.name != "furlong";
    let components: Vec<Value> = all.iter().filter(is_part).map(|one| component(one)).collect();
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "name": "furlong",
            "version": dependencies.version(),
            "bom-ref": format!("pkg:cargo/furlong@{}", dependencies.version()),
            "licenses": [{ "expression": "MIT OR Apache-2.0" }],
        } },
        "components": components,
        "dependencies": edges,
    });
    Ok(serde_json::to_string_pretty(&sbom)? + "\n")
}

fn component(one: &Crate) -> Value {
    let mut component = json!({
        "type": "library",
        "name": one.name,
        "version": one.version,
        "bom-ref": one.purl(),
        "purl": one.purl(),
    });
    if let Some(licence) = &one.licence {
        component["licenses"] = json!([{ "expression": licence }]);
    }
    if let Some(checksum) = &one.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dist::dependencies::tests::own;

    #[test]
    fn each_component_is_listed_once_and_every_edge_ends_at_one() {
        let sbom: Value = serde_json::from_str(&text(&own()).unwrap()).unwrap();
        let components = sbom["components"].as_array().unwrap();
        let subject = &sbom["metadata"]["component"];
        let refs = components.iter().chain([subject]).map(|one| one["bom-ref"].as_str().unwrap());
        let known: BTreeSet<&str> = refs.collect();
        assert_eq!(known.len(), components.len() + 1);
        let edges = sbom["dependencies"].as_array().unwrap();
        assert_eq!(edges.len(), known.len());
        for edge in edges {
            let ends = edge["dependsOn"].as_array().unwrap().iter().chain([&edge["ref"]]);
            ends.for_each(|end| assert!(known.contains(end.as_str().unwrap()), "{end}"));
        }
        let ring = components.iter().find(|one| one["name"] == "ring").unwrap();
        assert_eq!(ring["hashes"][0]["content"].as_str().unwrap().len(), 64);
    }
}
