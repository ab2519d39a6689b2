// Serves itself one request, and says so.
const http = require("http");
const zlib = require("zlib");

const server = http.createServer((request, response) => {
    response.end(zlib.gzipSync("hello"));
});
server.listen(0, "127.0.0.1", () => {
    http.get({ host: "127.0.0.1", port: server.address().port }, (response) => {
        const pieces = [];
        response.on("data", (piece) => pieces.push(piece));
        response.on("end", () => {
            const said = zlib.gunzipSync(Buffer.concat(pieces)).toString();
            console.log(`bolide-e2e: ${said}, node ${process.version}`);
            server.close();
        });
    });
});
