; Cliente de licença com redundância de servidores, para AutoHotkey v2 (32 ou 64 bits).
;
; No seu programa, antes de tudo:
;
;     #Include %A_ScriptDir%\SOLUCAO_COM_REDUNDANCIA_v2.ahk
;     licenca := LicenseAPI.Check()
;     if !licenca.allow {
;         MsgBox(licenca.message, "Licença", "Iconx")
;         ExitApp(1)
;     }
;
; licenca.allow     verdadeiro se o programa pode funcionar
; licenca.status    "online", "offline", "denied" (negada) ou "unavailable" (ninguém pôde decidir)
; licenca.message   texto para o usuário
; licenca.features  recursos da licença, um Array
; licenca.config    o que o servidor mandou em "config" (interval, message, update), um Map; vazio
;                   offline
;
; O guia completo está em docs/pt-BR/migracao.md. O comportamento é o da edição para v1.1.

; ---------------------------------------------------------------------------------------------
; Configuração: mude aqui.

; Servidores em ordem de prioridade, sem barra no fim.
global g_LicenseAPI_Servers := [
    "https://api1.railway.app",     ; Servidor principal
    "https://api2.onrender.com",    ; Backup 1
    "https://api3.fly.dev",         ; Backup 2
]

; As mesmas API_KEY e SHARED_SECRET dos servidores.
global g_LicenseAPI_Key := "SUA_API_KEY_AQUI"
global g_LicenseAPI_SharedSecret := "SEU_SHARED_SECRET_AQUI"

; A chave pública raiz (x e y). Com ela só valem respostas assinadas, e existe o modo offline.
; Vazia: vale a regra antiga (o primeiro servidor que responde decide), sem modo offline.
global g_LicenseAPI_RootKeyX := ""
global g_LicenseAPI_RootKeyY := ""

; A identidade desta máquina, com 16 caracteres ou mais. Se os seus clientes antigos a calculam de
; outro modo, ponha aqui o MESMO cálculo: para os servidores outra identidade é outra máquina.
global g_LicenseAPI_DeviceId := LicenseAPI.MachineId()

global g_LicenseAPI_Version := "1.0.0"
global g_LicenseAPI_TimeoutSeconds := 10        ; por servidor
global g_LicenseAPI_StateFile := A_AppData "\LicenseAPI\state.txt"

; ---------------------------------------------------------------------------------------------
; Daqui para baixo não é preciso mudar nada.

; Decides whether this program may run. Texts that people read are in Portuguese.
; What may be believed: with a pinned root key, only what a certified host has signed, be it yes or
; no; without one, the first answer. A "reason" is a text for the log; it never holds a secret.
class LicenseAPI {
    static RememberSeconds := 3600      ; how long a backup that answered is asked first
    static ClockSlackSeconds := 300     ; clocks are corrected by a little all the time
    static AnswerCharsMax := 262144
    static LogBytesMax := 262144
    static LogFiles := Map("used", "license_server_used.txt"
        , "failover", "license_server_failover.txt"
        , "offline", "license_offline_success.txt")

    static Check() {
        this.RequireConfiguration()
        state := LicenseAPI_State(g_LicenseAPI_StateFile)
        heard := {denials: 0, answers: 0, message: "", reasons: ""}
        verdict := this.AskServers(state, heard) || this.GoOffline(state, heard)
        if !state.Save()
            this.Log("failover", "estado não gravado em " g_LicenseAPI_StateFile)
        return verdict
    }

    static MachineId() {
        SetRegView(A_Is64bitOS ? 64 : 32)
        guid := RegRead("HKLM\SOFTWARE\Microsoft\Cryptography", "MachineGuid", "")
        SetRegView("Default")
        return SubStr(LicenseAPI_Crypto.Sha256Hex("LicenseAPI|" guid), 1, 32)
    }

    static RequireConfiguration() {
        if !g_LicenseAPI_Servers.Length
            throw Error("g_LicenseAPI_Servers está vazio")
        if StrLen(g_LicenseAPI_DeviceId) < 16
            throw Error("g_LicenseAPI_DeviceId precisa de 16 caracteres ou mais")
        if !this.IsPinned()
            return
        for coordinate in [g_LicenseAPI_RootKeyX, g_LicenseAPI_RootKeyY]
            if LicenseAPI_Crypto.FromBase64Url(coordinate).Size != 32
                throw Error("g_LicenseAPI_RootKeyX e Y não são uma chave P-256 (43 caracteres cada)")
    }

    static IsPinned() => g_LicenseAPI_RootKeyX != "" || g_LicenseAPI_RootKeyY != ""

    ; Returns a verdict, or "" if no server decided; heard then says what was heard.
    static AskServers(state, heard) {
        nonce := LicenseAPI_Crypto.RandomHex(16)
        query := this.Query(nonce)
        order := this.Order(state)
        for position, rank in order {
            try {
                answer := this.Ask(g_LicenseAPI_Servers[rank], query)
                verdict := this.Believe(answer, nonce, state, heard)
                this.Remember(state, rank)
                this.Log("used", this.Name(rank), verdict.allow ? "permitido" : "negado"
                    , verdict.message, this.WhyThisServer(position, rank))
                return verdict
            } catch Error as problem {
                coming := position < order.Length ? this.Name(order[position + 1]) : "modo offline"
                heard.reasons .= (position > 1 ? "; " : "") "servidor " rank ": " problem.Message
                this.Log("failover", this.Name(rank), problem.Message, "próximo: " coming)
            }
        }
        return ""
    }

    static Query(nonce) {
        ts := FormatTime(, "yyyyMMddHHmmss")
        signed := g_LicenseAPI_DeviceId "|" g_LicenseAPI_Version "|" ts "|" g_LicenseAPI_SharedSecret
        pairs := [["id", g_LicenseAPI_DeviceId], ["version", g_LicenseAPI_Version], ["ts", ts]
            , ["sig", LicenseAPI_Crypto.Sha256Hex(signed)], ["nonce", nonce]
            , ["hostname", A_ComputerName], ["username", A_UserName], ["osbuild", A_OSVersion]]
        query := ""
        for pair in pairs
            query .= (query = "" ? "" : "&") pair[1] "=" this.Escape(pair[2])
        return query
    }

    static Escape(text) {
        bytes := LicenseAPI_Crypto.Utf8(text)
        escaped := ""
        Loop bytes.Size {
            code := NumGet(bytes, A_Index - 1, "UChar")
            plain := code < 128 && RegExMatch(Chr(code), "[A-Za-z0-9._~-]")
            escaped .= plain ? Chr(code) : Format("%{:02X}", code)
        }
        return escaped
    }

    ; By priority; a backup that answered lately goes first, so that not every start waits for a
    ; server that is down.
    static Order(state) {
        order := []
        age := this.Now() - state.Number("server_since")
        for rank, server in g_LicenseAPI_Servers
            if this.Same(server, state.Get("server")) && age >= 0 && age < this.RememberSeconds
                order.InsertAt(1, rank)
            else
                order.Push(rank)
        return order
    }

    ; The time is that of the failover and not renewed, so that the first server gets its turn again.
    static Remember(state, rank) {
        if rank = 1 {
            state.Set("server", "")
        } else if !this.Same(state.Get("server"), g_LicenseAPI_Servers[rank])
            || this.Now() - state.Number("server_since") >= this.RememberSeconds {
            state.Set("server", g_LicenseAPI_Servers[rank])
            state.Set("server_since", this.Now())
        }
    }

    ; Returns the answer of a server as a parsed object; throws the reason if there is none.
    static Ask(server, query) {
        try {
            http := ComObject("WinHttp.WinHttpRequest.5.1")
            http.Open("GET", server "/verify?" query, true)
            ms := g_LicenseAPI_TimeoutSeconds * 1000
            http.SetTimeouts(ms, ms, ms, ms)
            http.SetRequestHeader("X-API-Key", g_LicenseAPI_Key)
            http.Send()
            timedOut := !this.IsAnswered(http, A_TickCount + ms)
            if timedOut
                http.Abort()
            else
                status := http.Status, text := http.ResponseText
        } catch Error as problem {
            throw Error("sem conexão (" this.ErrorCode(problem) ")")
        }
        if timedOut
            throw Error("sem resposta em " g_LicenseAPI_TimeoutSeconds " s")
        if status >= 500
            throw Error("erro HTTP " status)
        try
            answer := LicenseAPI_Json.Parse(SubStr(text, 1, this.AnswerCharsMax))
        catch Error
            answer := ""
        if !LicenseAPI_Json.IsBoolean(LicenseAPI_Json.Get(answer, "allow"))
            throw Error("a resposta não é da API de licenças (HTTP " status ")")
        return answer
    }

    ; Only this bounds the whole exchange; the four timeouts bound its steps. Where the answer is
    ; there before the wait begins, Wine's WaitForResponse returns at once and sets no result,
    ; which reads as false; a wait for an answer that does not come lasts its whole second.
    static IsAnswered(http, deadline) {
        while (begun := A_TickCount) < deadline
            if http.WaitForResponse(1) || A_TickCount - begun < 500
                return true
        return false
    }

    ; Returns only the number: the text may quote what was sent.
    static ErrorCode(problem) {
        return RegExMatch(problem.Message, "0x[0-9A-Fa-f]{8}", &code) ? code[] : Type(problem)
    }

    ; Returns the verdict of an answer; throws the reason if it must not be believed.
    static Believe(answer, nonce, state, heard) {
        allow := LicenseAPI_Json.IsTrue(LicenseAPI_Json.Get(answer, "allow"))
        message := LicenseAPI_Json.Text(answer, "msg")
        config := LicenseAPI_Json.Get(answer, "config")
        if !this.IsPinned()
            return this.Verdict(allow, allow ? "online" : "denied", message
                , LicenseAPI_Json.List(config, "features"), config)
        heard.answers += 1, heard.denials += !allow
        heard.message := message
        this.LearnRevoked(LicenseAPI_Json.Text(answer, "offline_revoked"), state)
        token := LicenseAPI_Json.Text(answer, "offline_token")
        if token = ""
            throw Error((allow ? "permissão" : "negação") " sem assinatura (" message ")")
        claims := this.OpenToken(token, state)
        if !this.Same(LicenseAPI_Json.Text(claims, "nonce"), nonce)
            throw Error("token de outra pergunta")
        if LicenseAPI_Json.IsTrue(LicenseAPI_Json.Get(claims, "allow")) != allow
            throw Error("resposta e token se contradizem")
        issued := LicenseAPI_Json.Integer(claims, "iat")
        ; From here on this PC's clock is read as the signing host's, however wrong it is set.
        state.Set("clock_offset", issued - this.Now())
        state.Set("newest_seen", issued)
        state.Set("token", token)
        return this.Verdict(allow, allow ? "online" : "denied", message
            , LicenseAPI_Json.List(claims, "features"), config)
    }

    static Verdict(allow, status, message, features, config) => {
        allow: allow, status: status, message: message, features: features,
        config: config is Map ? config : Map()
    }

    ; No server decided. The saved token does, or nobody.
    static GoOffline(state, heard) {
        if !this.IsPinned()
            return this.Verdict(false, "unavailable", this.Unavailable(), [], "")
        try {
            claims := this.SavedClaims(state)
            this.Log("offline", "modo offline ativado"
                , "token emitido em " this.Moment(LicenseAPI_Json.Integer(claims, "iat"))
                , "vale até " this.Moment(this.LastMoment(claims)), heard.reasons)
            return this.Verdict(true, "offline", "Licença ativa (modo offline)."
                , LicenseAPI_Json.List(claims, "features"), "")
        } catch Error as problem {
            this.Log("failover", "modo offline recusado", problem.Message)
        }
        if heard.answers && heard.denials = heard.answers
            return this.Verdict(false, "denied", heard.message, [], "")
        return this.Verdict(false, "unavailable", this.Unavailable(), [], "")
    }

    static Unavailable() => "Não foi possível verificar a licença: nenhum servidor pôde decidir. "
        . "Verifique a conexão com a internet e tente de novo."

    ; Returns the claims of the saved token if it allows this device now; throws the reason if not.
    static SavedClaims(state) {
        if state.Get("token") = ""
            throw Error("nenhum token salvo")
        now := this.Now() + state.Number("clock_offset")
        newest := state.Number("newest_seen")
        state.Set("newest_seen", Max(now, newest))
        claims := this.OpenToken(state.Get("token"), state)
        if !LicenseAPI_Json.IsTrue(LicenseAPI_Json.Get(claims, "allow"))
            throw Error("a última resposta assinada foi negativa")
        if now + this.ClockSlackSeconds < Max(newest, LicenseAPI_Json.Integer(claims, "iat"))
            throw Error("o relógio do computador foi atrasado")
        last := this.LastMoment(claims)
        if now > last
            throw Error("o prazo acabou em " this.Moment(last))
        return claims
    }

    ; The licence's last day is whole, in UTC as the hosts count it.
    static LastMoment(claims) {
        last := LicenseAPI_Json.Integer(claims, "iat") + LicenseAPI_Json.Integer(claims, "grace")
        last := Min(last, LicenseAPI_Json.Integer(claims, "exp"))
        day := StrReplace(LicenseAPI_Json.Text(claims, "license_expires_at"), "-")
        if day = ""
            return last
        if !(day ~= "^\d{8}$")
            throw Error("token sem data de vencimento legível")
        return Min(last, DateDiff(day "235959", "19700101000000", "Seconds"))
    }

    ; Keeps the newest list of revoked keys; one that the root did not sign is no list.
    static LearnRevoked(list, state) {
        found := this.Revoked(list)
        known := this.Revoked(state.Get("revoked"))
        if found && (!known || LicenseAPI_Json.Integer(found, "iat") > LicenseAPI_Json.Integer(known, "iat"))
            state.Set("revoked", list)
    }

    static IsRevoked(kid, state) {
        for revoked in LicenseAPI_Json.List(this.Revoked(state.Get("revoked")), "kids")
            if this.Same(revoked, kid)
                return true
        return false
    }

    ; Returns the claims of a list of revoked keys, or "" if it is none.
    static Revoked(list) {
        try {
            claims := this.OpenByRoot(list, "revoked-keys")
            LicenseAPI_Json.Integer(claims, "iat")
            return claims
        } catch Error
            return ""
    }

    ; Returns the claims of a host's token about this device; throws the reason if it does not hold.
    static OpenToken(token, state) {
        header := LicenseAPI_Jws.Header(token)
        cert := this.OpenByRoot(LicenseAPI_Json.Text(header, "cert"), "host-key")
        kid := LicenseAPI_Json.Text(cert, "kid")
        if kid = "" || !this.Same(LicenseAPI_Json.Text(header, "kid"), kid)
            throw Error("a chave do token não é a do certificado")
        if this.IsRevoked(kid, state)
            throw Error("a chave do servidor foi revogada")
        jwk := LicenseAPI_Json.Get(cert, "jwk")
        claims := LicenseAPI_Jws.Open(token, "JWT"
            , LicenseAPI_Json.Text(jwk, "x"), LicenseAPI_Json.Text(jwk, "y"))
        if !this.Same(LicenseAPI_Json.Text(claims, "iss"), LicenseAPI_Json.Text(cert, "iss"))
            throw Error("o servidor do token não é o do certificado")
        if !this.Same(LicenseAPI_Json.Text(claims, "sub"), g_LicenseAPI_DeviceId)
            throw Error("token de outra máquina")
        return claims
    }

    static OpenByRoot(jws, typ) {
        return LicenseAPI_Jws.Open(jws, typ, g_LicenseAPI_RootKeyX, g_LicenseAPI_RootKeyY)
    }

    ; AutoHotkey compares numbers with texts that look like them as numbers, and ids may.
    static Same(one, other) => !IsObject(one) && !IsObject(other) && StrCompare(one, other, true) = 0

    static Now() => DateDiff(A_NowUTC, "19700101000000", "Seconds")

    static Moment(seconds) {
        return FormatTime(DateAdd("19700101000000", seconds, "Seconds"), "yyyy-MM-dd HH:mm") " UTC"
    }

    static Name(rank) => "servidor " rank " (" g_LicenseAPI_Servers[rank] ")"

    static WhyThisServer(position, rank) {
        if position > 1
            return "os anteriores falharam"
        return rank = 1 ? "é o principal" : "foi o último que respondeu"
    }

    ; Appends a line to one of the three files in %TEMP%. A log that cannot be written stops nobody.
    static Log(which, parts*) {
        path := A_Temp "\" this.LogFiles[which]
        line := FormatTime(, "yyyy-MM-dd HH:mm:ss")
        for part in parts
            line .= " | " SubStr(RegExReplace(part, "[\x00-\x1f|]+", " "), 1, 400)
        try {
            if FileExist(path) && FileGetSize(path) > this.LogBytesMax
                FileDelete(path)
            FileAppend(line "`r`n", path, "UTF-8")
        }
    }
}

; What the client remembers from one start to the next: lines "name=value", written as a whole.
class LicenseAPI_State {
    __New(file) {
        this.file := file
        this.values := Map()
        text := ""
        try
            text := FileRead(file, "UTF-8")
        Loop Parse, text, "`n", "`r"
            if (at := InStr(A_LoopField, "="))
                this.values[SubStr(A_LoopField, 1, at - 1)] := SubStr(A_LoopField, at + 1)
    }

    Get(name) => this.values.Get(name, "")

    Number(name) {
        value := this.Get(name)
        return value ~= "^-?\d{1,15}$" ? Integer(value) : 0
    }

    Set(name, value) {
        this.values[name] := value
    }

    Save() {
        text := ""
        for name, value in this.values
            text .= name "=" value "`n"
        new := this.file "." ProcessExist() ".new"
        SplitPath(this.file, , &folder)
        try {
            DirCreate(folder)
            if FileExist(new)
                FileDelete(new)
            FileAppend(text, new, "UTF-8-RAW")
            FileMove(new, this.file, 1)
        } catch Error
            return false
        return true
    }
}

; A JWS in compact form (RFC 7515), ES256 and nothing else.
class LicenseAPI_Jws {
    static Header(jws) => this.Decoded(StrSplit(jws ".", ".")[1])

    ; Returns the claims; throws the reason if the signature does not hold.
    static Open(jws, typ, x, y) {
        parts := StrSplit(jws, ".")
        if parts.Length != 3
            throw Error("token ilegível")
        header := this.Decoded(parts[1])
        if !LicenseAPI.Same(LicenseAPI_Json.Text(header, "alg"), "ES256")
            || !LicenseAPI.Same(LicenseAPI_Json.Text(header, "typ"), typ)
            throw Error("token de outro tipo")
        if !LicenseAPI_Crypto.IsSignedEs256(parts[1] "." parts[2], parts[3], x, y)
            throw Error("assinatura inválida")
        return this.Decoded(parts[2])
    }

    static Decoded(part) {
        bytes := LicenseAPI_Crypto.FromBase64Url(part)
        if !bytes.Size
            throw Error("token ilegível")
        try
            return LicenseAPI_Json.Parse(StrGet(bytes, bytes.Size, "UTF-8"))
        catch Error
            throw Error("token ilegível")
    }
}

; SHA-256, ES256 and randomness by Windows' bcrypt, from Windows 7 on.
class LicenseAPI_Crypto {
    static BCRYPT_USE_SYSTEM_PREFERRED_RNG := 2
    static CRYPT_STRING_BASE64 := 1

    static Sha256Hex(text) => this.Hex(this.Sha256(text))

    ; Returns the SHA-256 of the text's UTF-8 bytes.
    static Sha256(text) {
        bytes := this.Utf8(text), digest := Buffer(32, 0)
        algorithm := this.Algorithm("SHA256"), hash := 0
        DllCall("bcrypt\BCryptCreateHash", "Ptr", algorithm, "Ptr*", &hash, "Ptr", 0, "UInt", 0, "Ptr", 0, "UInt", 0, "UInt", 0)
        DllCall("bcrypt\BCryptHashData", "Ptr", hash, "Ptr", bytes, "UInt", bytes.Size, "UInt", 0)
        failed := DllCall("bcrypt\BCryptFinishHash", "Ptr", hash, "Ptr", digest, "UInt", 32, "UInt", 0)
        DllCall("bcrypt\BCryptDestroyHash", "Ptr", hash)
        DllCall("bcrypt\BCryptCloseAlgorithmProvider", "Ptr", algorithm, "UInt", 0)
        if failed
            throw Error("SHA-256 não disponível neste Windows")
        return digest
    }

    ; Says whether a signature (base64url of r and s) over a text holds under the P-256 key (x, y).
    static IsSignedEs256(text, signature, x, y) {
        sig := this.FromBase64Url(signature)
        xBytes := this.FromBase64Url(x), yBytes := this.FromBase64Url(y)
        if sig.Size != 64 || xBytes.Size != 32 || yBytes.Size != 32
            return false
        blob := Buffer(72, 0)
        NumPut("UInt", 0x31534345, "UInt", 32, blob)    ; "ECS1": a public ECDSA key on P-256
        DllCall("RtlMoveMemory", "Ptr", blob.Ptr + 8, "Ptr", xBytes, "Ptr", 32)
        DllCall("RtlMoveMemory", "Ptr", blob.Ptr + 40, "Ptr", yBytes, "Ptr", 32)
        digest := this.Sha256(text)
        algorithm := this.Algorithm("ECDSA_P256"), key := 0
        refused := DllCall("bcrypt\BCryptImportKeyPair", "Ptr", algorithm, "Ptr", 0, "WStr", "ECCPUBLICBLOB", "Ptr*", &key, "Ptr", blob, "UInt", 72, "UInt", 0)
        if !refused {
            refused := DllCall("bcrypt\BCryptVerifySignature", "Ptr", key, "Ptr", 0, "Ptr", digest, "UInt", 32, "Ptr", sig, "UInt", 64, "UInt", 0)
            DllCall("bcrypt\BCryptDestroyKey", "Ptr", key)
        }
        DllCall("bcrypt\BCryptCloseAlgorithmProvider", "Ptr", algorithm, "UInt", 0)
        return refused = 0
    }

    static RandomHex(size) {
        bytes := Buffer(size, 0)
        if DllCall("bcrypt\BCryptGenRandom", "Ptr", 0, "Ptr", bytes, "UInt", size, "UInt", this.BCRYPT_USE_SYSTEM_PREFERRED_RNG)
            throw Error("números aleatórios não disponíveis neste Windows")
        return this.Hex(bytes)
    }

    ; Returns the bytes of a base64url text, none if it is not one.
    static FromBase64Url(text) {
        if IsObject(text) || !(text ~= "^[A-Za-z0-9_-]+$")
            return Buffer(0)
        text := StrReplace(StrReplace(text, "-", "+"), "_", "/")
        text .= SubStr("===", 1, Mod(4 - Mod(StrLen(text), 4), 4))
        size := StrLen(text), bytes := Buffer(size, 0)
        if !DllCall("crypt32\CryptStringToBinaryW", "WStr", text, "UInt", 0, "UInt", this.CRYPT_STRING_BASE64, "Ptr", bytes, "UInt*", &size, "Ptr", 0, "Ptr", 0)
            return Buffer(0)
        bytes.Size := size
        return bytes
    }

    ; Returns the UTF-8 bytes of a text, without a zero at the end.
    static Utf8(text) {
        bytes := Buffer(StrPut(text, "UTF-8"))
        StrPut(text, bytes, "UTF-8")
        bytes.Size -= 1
        return bytes
    }

    static Algorithm(name) {
        algorithm := 0
        if DllCall("bcrypt\BCryptOpenAlgorithmProvider", "Ptr*", &algorithm, "WStr", name, "Ptr", 0, "UInt", 0)
            throw Error(name " não disponível neste Windows")
        return algorithm
    }

    static Hex(bytes) {
        text := ""
        Loop bytes.Size
            text .= Format("{:02x}", NumGet(bytes, A_Index - 1, "UChar"))
        return text
    }
}

; JSON (RFC 8259), read only: objects are Maps, lists are Arrays, numbers stay texts.
; true, false and null are objects {literal: ...}, so that no text or number passes for one.
class LicenseAPI_Json {
    static DepthMax := 16

    static Parse(text) {
        at := 1
        value := this.Value(text, &at, this.DepthMax)
        this.Skip(text, &at)
        if at <= StrLen(text)
            throw Error("JSON: texto depois do fim")
        return value
    }

    static Get(object, name) => object is Map ? object.Get(name, "") : ""

    ; Returns a member if it is a text, else "".
    static Text(object, name) {
        value := this.Get(object, name)
        return IsObject(value) ? "" : value
    }

    static Integer(object, name) {
        value := this.Get(object, name)
        if IsObject(value) || !(value ~= "^\d{1,15}$")
            throw Error("token sem " name)
        return Integer(value)
    }

    static List(object, name) {
        value := this.Get(object, name)
        return value is Array ? value : []
    }

    static IsTrue(value) => this.Literal(value) == "true"

    static IsBoolean(value) => this.Literal(value) == "true" || this.Literal(value) == "false"

    static Literal(value) => IsObject(value) && value.HasOwnProp("literal") ? value.literal : ""

    static Value(text, &at, depth) {
        if !depth
            throw Error("JSON: profundo demais")
        this.Skip(text, &at)
        switch SubStr(text, at, 1) {
            case "{": return this.Object(text, &at, depth)
            case "[": return this.Array(text, &at, depth)
            case '"': return this.String(text, &at)
        }
        if RegExMatch(text, "A)-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", &found, at) {
            at += found.Len
            return found[]
        }
        if RegExMatch(text, "A)true|false|null", &found, at) {
            at += found.Len
            return {literal: found[]}
        }
        throw Error("JSON: valor ilegível")
    }

    static Object(text, &at, depth) {
        members := Map(), at += 1
        if this.IsAt(text, &at, "}")
            return members
        Loop {
            this.Skip(text, &at)
            name := this.String(text, &at)
            this.Expect(text, &at, ":")
            members[name] := this.Value(text, &at, depth - 1)
            if this.IsAt(text, &at, "}")
                return members
            this.Expect(text, &at, ",")
        }
    }

    static Array(text, &at, depth) {
        items := [], at += 1
        if this.IsAt(text, &at, "]")
            return items
        Loop {
            items.Push(this.Value(text, &at, depth - 1))
            if this.IsAt(text, &at, "]")
                return items
            this.Expect(text, &at, ",")
        }
    }

    static String(text, &at) {
        if !RegExMatch(text, 'A)"((?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*+)"', &found, at)
            throw Error("JSON: texto ilegível")
        at += found.Len
        return this.Unescaped(found[1])
    }

    static Unescaped(raw) {
        static plain := Map("b", "`b", "f", "`f", "n", "`n", "r", "`r", "t", "`t")
        result := "", from := 1
        while at := InStr(raw, "\", true, from) {
            result .= SubStr(raw, from, at - from)
            mark := SubStr(raw, at + 1, 1)
            if mark == "u"
                result .= Chr("0x" SubStr(raw, at + 2, 4)), from := at + 6
            else
                result .= plain.Get(mark, mark), from := at + 2
        }
        return result SubStr(raw, from)
    }

    ; Steps over a character, after white space, if it is the next one; says whether it was.
    static IsAt(text, &at, char) {
        this.Skip(text, &at)
        if SubStr(text, at, 1) !== char
            return false
        at += 1
        return true
    }

    static Expect(text, &at, char) {
        if !this.IsAt(text, &at, char)
            throw Error("JSON: falta " char)
    }

    static Skip(text, &at) {
        at := RegExMatch(text, "[^ \t\r\n]", , at) || StrLen(text) + 1
    }
}
