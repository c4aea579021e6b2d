// Verifies what ZTA says of its audit log, with the code of Go's checksum database and
// nothing of ZTA's. For the tests: they show that software which is not ours accepts what is
// right and refuses what was manipulated.
//
//	log-verifier receipt VKEY LEAF PROOF          C2SP tlog-proof: note.Open, tlog.CheckRecord
//	log-verifier consistency VKEY OLD NEW PROOF   two notes, hashes a line: tlog.CheckTree
//	log-verifier export VKEY DIR [OLD]            every leaf of a folder of tiles; where it
//	                                              has a from-checkpoint, from there on
//
// Exit code 0: verified. 1: refused, with the reason.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The height of the tiles of C2SP tlog-tiles.
const height = 8

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
	fmt.Println("verified")
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "receipt":
		return receipt(args[1], read(args[2]), read(args[3]))
	case len(args) == 5 && args[0] == "consistency":
		return consistency(args[1], read(args[2]), read(args[3]), read(args[4]))
	case len(args) == 3 && args[0] == "export":
		return export(args[1], args[2], "")
	case len(args) == 4 && args[0] == "export":
		return export(args[1], args[2], read(args[3]))
	}
	return errors.New("usage: receipt | consistency | export")
}

func read(path string) string {
	bytes, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
	return string(bytes)
}

// open reads a checkpoint. tlog.ParseTree takes only the origin of Go's own log, so its lines
// are read here, after note.Open has verified the signature.
func open(vkey, text string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	signed, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, errors.New("malformed size")
	}
	root, err := hash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

func hash(line string) (tlog.Hash, error) {
	bytes, err := base64.StdEncoding.DecodeString(line)
	if err != nil || len(bytes) != tlog.HashSize {
		return tlog.Hash{}, errors.New("malformed hash")
	}
	return tlog.Hash(bytes), nil
}

func hashes(lines []string) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, line := range lines {
		parsed, err := hash(line)
		if err != nil {
			return nil, err
		}
		out = append(out, parsed)
	}
	return out, nil
}

func receipt(vkey, leaf, text string) error {
	head, checkpoint, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("malformed receipt")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	proof, err := hashes(lines[2:])
	if err != nil {
		return err
	}
	tree, err := open(vkey, checkpoint)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash([]byte(leaf)))
}

func consistency(vkey, before, after, text string) error {
	older, err := open(vkey, before)
	if err != nil {
		return err
	}
	newer, err := open(vkey, after)
	if err != nil {
		return err
	}
	proof, err := hashes(strings.Fields(text))
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, newer.N, newer.Hash, older.N, older.Hash)
}

// folder reads tiles as they are exported. tlog verifies each against the signed root.
type folder string

func (f folder) Height() int { return height }

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		// Go's paths name the height, C2SP's do not.
		path := strings.TrimPrefix(tile.Path(), "tile/8/")
		bytes, err := os.ReadFile(filepath.Join(string(f), "tile", path))
		if err != nil {
			return nil, err
		}
		out = append(out, bytes)
	}
	return out, nil
}

func export(vkey, dir, older string) error {
	tree, err := open(vkey, read(filepath.Join(dir, "checkpoint")))
	if err != nil {
		return err
	}
	tiles := tlog.TileHashReader(tree, folder(dir))
	// An export that follows another one begins in the bundle that its checkpoint ends in.
	begin := int64(0)
	if from, err := os.ReadFile(filepath.Join(dir, "from-checkpoint")); err == nil {
		before, err := open(vkey, string(from))
		if err != nil {
			return err
		}
		if err := extends(tree, before, tiles); err != nil {
			return err
		}
		begin = before.N >> height << height
	}
	for first := begin; first < tree.N; first += 1 << height {
		width := min(tree.N-first, 1<<height)
		leaves, err := entries(dir, first>>height, int(width))
		if err != nil {
			return err
		}
		for i, leaf := range leaves {
			n := first + int64(i)
			proof, err := tlog.ProveRecord(tree.N, n, tiles)
			if err != nil {
				return err
			}
			err = tlog.CheckRecord(proof, tree.N, tree.Hash, n, tlog.RecordHash(leaf))
			if err != nil {
				return fmt.Errorf("record %d: %w", n, err)
			}
		}
	}
	if older == "" {
		return nil
	}
	seen, err := open(vkey, older)
	if err != nil {
		return err
	}
	return extends(tree, seen, tiles)
}

// extends proves that a tree begins with an older one.
func extends(tree, older tlog.Tree, tiles tlog.HashReader) error {
	if older.N > tree.N {
		return fmt.Errorf("rolled back: %d records, %d were signed before", tree.N, older.N)
	}
	proof, err := tlog.ProveTree(tree.N, older.N, tiles)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash)
}

func entries(dir string, number int64, width int) ([][]byte, error) {
	// The place of a bundle is that of the tile of its hashes.
	tile := tlog.Tile{H: height, L: 0, N: number, W: width}
	path := strings.TrimPrefix(tile.Path(), "tile/8/0/")
	bytes, err := os.ReadFile(filepath.Join(dir, "tile", "entries", path))
	if err != nil {
		return nil, err
	}
	var leaves [][]byte
	for len(bytes) > 0 {
		if len(bytes) < 2 {
			return nil, errors.New("a bundle that ends in a length")
		}
		length := int(binary.BigEndian.Uint16(bytes))
		if len(bytes) < 2+length {
			return nil, errors.New("a bundle that ends in a leaf")
		}
		leaves = append(leaves, bytes[2:2+length])
		bytes = bytes[2+length:]
	}
	if len(leaves) != width {
		return nil, fmt.Errorf("the bundle %d has %d leaves, not %d", number, len(leaves), width)
	}
	return leaves, nil
}
