//! The page: one file, with nothing from outside.

use super::http::Response;

/// The file.
const PAGE: &[u8] = include_bytes!("page.html");

/// What a browser lets the page do: run its own script, and none that got into it; fetch from here; be nobody's frame.
/// The hashes are those of what stands in the file, which a test sees to.
const FIELDS: &str = concat!(
    "Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; ",
    "form-action 'none'; frame-ancestors 'none'; ",
    "style-src 'sha256-0ilvqlRUorcTFqcpU1owBN6oQYkwrv2PXHXaOmhE/ow='; ",
    "script-src 'sha256-Ux5BICB9B0DT8tvK5qMKsx/mnK0e92FNMATDLIFfHNs='\r\n",
    "Referrer-Policy: no-referrer\r\n",
);

/// The answer to `GET /`.
pub fn response() -> Response {
    let content_type = "text/html; charset=utf-8";
    Response { status: 200, content_type, fields: FIELDS, body: PAGE.to_vec() }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use sha2::{Digest, Sha256};

    use super::*;

    /// What stands between the tags of an element of which there is one.
    fn element(name: &str) -> &'static str {
        let page = std::str::from_utf8(PAGE).unwrap();
        let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
        assert_eq!((page.matches(&format!("<{name}")).count(), page.matches(&end).count()), (1, 1), "{name}");
        page.split_once(&begin).unwrap().1.split_once(&end).unwrap().0
    }

    #[test]
    fn its_policy_has_the_hashes_of_its_style_and_its_script() {
        for name in ["style", "script"] {
            let hash = BASE64_STANDARD.encode(Sha256::digest(element(name)));
            let source = format!("{name}-src 'sha256-{hash}'");
            assert!(FIELDS.contains(&source), "src/admin/page.rs has to say {source}");
        }
    }
}
