# A bundle is whole, links again from within, and replaces only bundles.
compile two_programs
cat >b.ujit.yaml <<'YAML'
ujit-lto: 1
name: b
objects: [ { path: two_programs.o, constants: [ { name: verdict, bind: 1 } ] } ]
entries: [ entry ]
YAML
ujit link b.ujit.yaml --bundle
expect 0
for file in manifest.ujit.yaml image.o plan.json graph.json report.json objects/two_programs.o; do
  [ -s b.ujit/$file ] || die "no $file in the bundle"
done
ujit link b.ujit/manifest.ujit.yaml -o again.o
expect 0
ujit link b.ujit.yaml --bundle
expect 0
mkdir precious && touch precious/thing
ujit link b.ujit.yaml --bundle -o precious
expect 1 "precious" "not replaced"
[ -e precious/thing ] || die "a folder that is no bundle was replaced"
# Its graph is the pipeline's, also where cycles were peeled.
build=$(dirname "$UJIT_LTO")
[ -f "$build/edge-lb/edge-lb.ujit.yaml" ] || skip "the example datapath is not built"
ujit link "$build/edge-lb/edge-lb.ujit.yaml" --bundle -o edge-lb.ujit
expect 0
grep -q '"xdp_entry"' edge-lb.ujit/graph.json || die "no program in the bundle's graph"
! grep -q '\.again' edge-lb.ujit/graph.json || die "copies of programs in the bundle's graph"
grep -q '\.again' edge-lb.ujit/plan.json || die "no copies of programs in the bundle's plan"
[ -z "$(ls -d ./*.tmp* 2>/dev/null)" ] || die "temporary files were left"
