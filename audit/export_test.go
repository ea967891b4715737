package audit

// What the tests need of the inside.
type File = file

var (
	OpenFile  = openFile
	OpenWith  = open
	ParseLine = parseLine
	FileName  = fileName
)

const (
	RefusalsMax = refusalsMax
	SourceMax   = sourceMax
	ActsMax     = actsMax
	AnchorName  = anchorName
	TextMax     = textMax
)
