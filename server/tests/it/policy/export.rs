//! A revision as files again.

use super::{apply, file, in_force, with};
use crate::support::Setup;
use crate::support::server::text;

#[tokio::test]
async fn what_is_exported_is_what_was_applied() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let source = with(&admin, "x.cedar", "// x\r\n\t// é").await;
    apply(&admin, source, 1).await.expect("applied");
    let folder = server.folder().join("out");
    let name = folder.to_string_lossy().into_owned();
    let export = |arguments: &[&str]| server.zta(&[&["policy", "export"], arguments].concat());
    let done = export(&["2", &name]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let same = server.zta(&["policy", "diff", "2", &name]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    let again = export(&["1", &name]);
    assert_eq!(again.status.code(), Some(2));
    assert!(
        text(&again.stderr).contains("--force"),
        "{}",
        text(&again.stderr)
    );
    assert!(folder.join("x.cedar").exists());
    assert!(export(&["1", &name, "--force"]).status.success());
    assert!(!folder.join("x.cedar").exists());
    let same = server.zta(&["policy", "diff", "1", &name]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
}

#[tokio::test]
async fn no_file_leads_out_of_the_folder() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let (_, mut source) = in_force(&admin).await;
    source.policies.push(file("../../evil.cedar", "// evil"));
    apply(&admin, source, 1)
        .await
        .expect("a name is a name to the server");
    let folder = server.folder().join("a/b");
    let output = server.zta(&["policy", "export", "0", &folder.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("nothing was written"));
    assert!(!server.folder().join("evil.cedar").exists() && !folder.exists());
}
